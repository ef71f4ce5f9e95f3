#include <cstdio>
#include <memory>

#include "core/file.h"
#include "core/log.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"
#include "tools/report/report.h"
#include "tools/train/job_display.h"
#include "tools/train/signals.h"
#include "tools/train/trained_model.h"

namespace flare {

void add_eval(CLI::App& app, int& exit_code) {
  struct Options {
    std::string source, weights, split = "test", device = "auto";
    std::vector<std::string> assignments;
    bool json = false, quiet = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Evaluate a run's weights on a split");
  add_run_option(*command, o->source);
  add_weights_option(*command, o->weights);
  command->add_option("--split", o->split, "split of the data folder")->capture_default_str()->type_name("SPLIT");
  add_device_option(*command, o->device);
  add_set_option(*command, o->assignments);
  command->add_flag("--json", o->json, "print one JSON object");
  command->add_flag("--quiet", o->quiet, "no progress on stderr");
  command->footer(help_footer(
      {"flare eval runs/listops-mini", "flare eval runs/listops-mini --split val --json",
       "flare eval tools/configs/lra/listops-mini.json --weights runs/listops-mini/checkpoints/last/model.safetensors"},
      "split, score_name, the score under that name, loss, n_samples, weights, step, chosen_by; for classes also majority_class, "
      "majority_accuracy, by_length, confusion; for fields errors, quantiles, best, median, worst, and of several times "
      "relative_l2_step, relative_l2_by_time"));
  command->callback([o, &exit_code] {
    const TrainedModel model = load_trained(o->source, {o->weights, o->device, o->assignments});
    catch_stop_signals("after this batch");
    const JobDisplay display(o->quiet);
    std::optional<Json> result = evaluate(*model.task, model.folder, o->split, model.options);
    if (!result) {
      exit_code = kExitInterrupted;
      return;
    }
    (*result)["weights"] = model.weights;
    if (const auto step = model.metadata.find("step"); step != model.metadata.end())
      (*result)["step"] = std::atoll(step->second.c_str());
    if (const auto best = model.metadata.find("best"); best != model.metadata.end()) (*result)["chosen_by"] = best->second;
    if (o->json)
      std::printf("%s\n", result->dump().c_str());
    else
      std::printf("%s       weights %s\n", format_evaluation(*result).c_str(), model.weights.c_str());
    if (model.is_run && o->weights.empty() && o->assignments.empty()) {
      try {
        write_file_atomically(o->source + "/eval-" + o->split + ".json", result->dump(2) + "\n");
        save_panels(*model.task, model.folder, *result, model.options, o->source);
        write_report(o->source);
      } catch (const DataError& error) {
        log_warning("the run folder was not updated: ", error.what());  // it may be someone else's
      }
    }
  });
}

}  // namespace flare
