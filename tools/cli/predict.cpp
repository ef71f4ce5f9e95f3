#include <cstdio>
#include <memory>

#include "core/npy.h"
#include "tools/cli/commands.h"
#include "tools/train/predictor.h"

namespace flare {

void add_predict(CLI::App& app, int&) {
  struct Options {
    std::string source, weights, input, output, device = "auto";
    std::vector<std::string> assignments;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("predict",
                                         "Run a trained model on an array: tokens [n,N] (integers, 0 pads) -> logits [n,K], or "
                                         "points with channels [n,N,in] -> fields [n,N,out]");
  command->add_option("run", o->source, "run folder, or a recipe with --weights")->required();
  command->add_option("--input", o->input, ".npy file to read")->required();
  command->add_option("--output", o->output, ".npy file to write")->required();
  command->add_option("--weights", o->weights, "safetensors file; the run's best checkpoint when not given");
  command->add_option("--device", o->device, "auto, cpu, cuda or cuda:<index>")->capture_default_str();
  command->add_option("--set", o->assignments, "change a key of the recipe (repeatable)")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  command->callback([o] {
    Predictor predictor(o->source, {o->weights, o->device, o->assignments});
    const Tensor input = read_npy(o->input);
    Tensor output;
    try {
      output = predictor.predict(input);
    } catch (const DataError& error) { throw DataError(cat(o->input, ": ", error.what())); }
    write_npy(o->output, output);
    std::printf("%s: %s of %ld rows, weights %s\n", o->output.c_str(), cat(output.dtype(), " ", output.shape()).c_str(),
                static_cast<long>(output.size(0)), predictor.weights().c_str());
  });
}

}  // namespace flare
