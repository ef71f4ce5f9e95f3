#include <algorithm>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "core/file.h"
#include "tools/analyze/spectrum.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"
#include "tools/report/report.h"
#include "tools/train/trained_model.h"

namespace flare {
namespace {

struct Options {
  std::string source, weights, split = "test", device = "auto", out;
  std::vector<std::string> assignments;
  int64_t samples = 8;
  bool json = false;
};

void analyze_spectrum(const Options& o) {
  const TrainedModel model = load_trained(o.source, {o.weights, o.device, o.assignments});
  const std::string& mixer = model.recipe.model.mixer;
  check<ConfigError>(mixer == "flare" || mixer == "flare++", "model.mixer: ", mixer,
                     " routes through no latents, so it has no spectrum; flare and flare++ do");
  const std::vector<LayerSpectrum> layers = spectra_of(*model.task, model.folder, o.split, o.samples, model.options);
  const int64_t samples = std::min(o.samples, model.folder.count(o.split));
  Json result = {{"weights", model.weights}, {"split", o.split}, {"samples", samples}};
  result.update(spectrum_json(layers));
  if (o.json)
    std::printf("%s\n", result.dump().c_str());
  else
    std::printf("%s%d samples of split %s, weights %s\n", spectrum_table(layers).c_str(), static_cast<int>(samples),
                o.split.c_str(), model.weights.c_str());
  const std::string out = o.out.empty() && model.is_run ? o.source : o.out;
  if (out.empty()) return;
  make_directories(out);
  write_file_atomically(out + "/spectrum.json", result.dump() + "\n");
  write_spectrum_page(result, "Spectrum of " + o.source, out + "/spectrum.html");
  if (model.is_run && o.out.empty()) write_report(o.source);
  if (!o.json) std::printf("wrote %s/spectrum.json and the charts %s/spectrum.html\n", out.c_str(), out.c_str());
}

}  // namespace

void add_analyze(CLI::App& app, int&) {
  const auto o = std::make_shared<Options>();
  CLI::App* analyze = app.add_subcommand("analyze", "Look inside a trained model");
  analyze->require_subcommand(1);
  analyze->footer(help_footer({"flare analyze spectrum runs/darcy-gen", "flare analyze spectrum --help"}));
  CLI::App* command = analyze->add_subcommand(
      "spectrum",
      "Eigenvalues of the operator W_dec W_enc of every FLARE or FLARE++ layer and head, averaged over samples; written "
      "to spectrum.json and spectrum.html in the run folder, and into its report");
  add_run_option(*command, o->source);
  add_weights_option(*command, o->weights);
  command->add_option("--split", o->split, "split of the data folder")->capture_default_str()->type_name("SPLIT");
  command->add_option("--samples", o->samples, "how many samples, the first ones of the split")->capture_default_str();
  add_device_option(*command, o->device);
  add_set_option(*command, o->assignments);
  command->add_option("--out", o->out, "folder to write to in place of the run folder")->type_name("DIR");
  command->add_flag("--json", o->json, "print one JSON object");
  command->footer(
      help_footer({"flare analyze spectrum runs/darcy-gen", "flare analyze spectrum runs/listops-mini --samples 32 --json"},
                  "weights, split, samples, layers: for each block and head eigenvalues, effective_rank, above_1_percent"));
  command->callback([o] { analyze_spectrum(*o); });
}

}  // namespace flare
