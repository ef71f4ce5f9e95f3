#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "core/file.h"
#include "nn/checkpoint.h"
#include "tools/analyze/spectrum.h"
#include "tools/cli/commands.h"
#include "tools/train/run_folder.h"

namespace flare {
namespace {

struct Options {
  std::string source, weights, split = "test", device = "auto", out;
  std::vector<std::string> assignments;
  int64_t samples = 8;
  bool json = false;
};

void analyze_spectrum(const Options& o) {
  const bool is_run = is_run_folder(o.source);
  check<ConfigError>(is_run || !o.weights.empty(), o.source,
                     ": is not a run folder; give --weights FILE.safetensors with a recipe");
  const Recipe recipe = recipe_of(o.source, o.assignments);
  check<ConfigError>(recipe.model.mixer == "flare" || recipe.model.mixer == "flare++", "model.mixer: ", recipe.model.mixer,
                     " routes through no latents, so it has no spectrum; flare and flare++ do");
  const Device device = parse_device(o.device);
  const PreparedFolder folder = open_data(recipe);
  const std::unique_ptr<Task> task = make_task(recipe, folder);
  const std::string path = o.weights.empty() ? weights_of_run(o.source) : o.weights;
  const SafeTensors weights = read_safetensors(path);
  load_parameters(weights.tensors, path, task->model());
  task->adopt(weights.metadata);
  task->model().to(device);
  const EvaluationOptions options = evaluation_options(recipe, folder, apply_precision(recipe.train.precision), device);
  const std::vector<LayerSpectrum> layers = spectra_of(*task, folder, o.split, o.samples, options);
  const int64_t samples = std::min(o.samples, folder.count(o.split));
  Json result = {{"weights", path}, {"split", o.split}, {"samples", samples}};
  result.update(spectrum_json(layers));
  if (o.json)
    std::printf("%s\n", result.dump().c_str());
  else
    std::printf("%s%d samples of split %s, weights %s\n", spectrum_table(layers).c_str(), static_cast<int>(samples),
                o.split.c_str(), path.c_str());
  const std::string out = o.out.empty() && is_run ? o.source : o.out;
  if (out.empty()) return;
  make_directories(out);
  write_file_atomically(out + "/spectrum.json", result.dump() + "\n");
  write_file_atomically(out + "/spectrum.svg",
                        spectrum_svg(layers, fmt::format("eigenvalues of decode x encode by rank, {}", folder.info().name)));
  if (!o.json) std::printf("wrote %s/spectrum.json and %s/spectrum.svg\n", out.c_str(), out.c_str());
}

}  // namespace

void add_analyze(CLI::App& app, int&) {
  const auto o = std::make_shared<Options>();
  CLI::App* analyze = app.add_subcommand("analyze", "Look inside a trained model");
  analyze->require_subcommand(1);
  CLI::App* command = analyze->add_subcommand(
      "spectrum",
      "Eigenvalues of the operator W_dec W_enc of every FLARE or FLARE++ layer and head, averaged over samples; written "
      "to spectrum.json and spectrum.svg in the run folder");
  command->add_option("run", o->source, "run folder, or a recipe with --weights")->required();
  command->add_option("--weights", o->weights, "safetensors file; the run's best checkpoint when not given");
  command->add_option("--split", o->split, "split of the data folder")->capture_default_str();
  command->add_option("--samples", o->samples, "how many samples, the first ones of the split")->capture_default_str();
  command->add_option("--device", o->device, "auto, cpu, cuda or cuda:<index>")->capture_default_str();
  command->add_option("--set", o->assignments, "change a key of the recipe (repeatable)")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  command->add_option("--out", o->out, "folder to write to in place of the run folder");
  command->add_flag("--json", o->json, "print one JSON object");
  command->callback([o] { analyze_spectrum(*o); });
}

}  // namespace flare
