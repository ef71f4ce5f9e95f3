#include "tools/cli/options.h"

namespace flare {

void add_run_option(CLI::App& command, std::string& value) {
  command.add_option("run", value, "run folder, or a recipe with --weights")->required()->type_name("RUN");
}

void add_weights_option(CLI::App& command, std::string& value) {
  command.add_option("--weights", value, "safetensors file; the run's best checkpoint when not given")->type_name("FILE");
}

void add_device_option(CLI::App& command, std::string& value, const std::string& more) {
  command.add_option("--device", value, "auto, cpu, cuda or cuda:<index>" + more)
      ->capture_default_str()
      ->type_name("auto|cpu|cuda[:i]");
}

void add_set_option(CLI::App& command, std::vector<std::string>& values, const std::string& help) {
  command.add_option("--set", values, help + " (repeatable)")->allow_extra_args(false)->type_name("KEY=VALUE");
}

}  // namespace flare
