#include <algorithm>
#include <cstdio>
#include <memory>

#include "core/npy.h"
#include "nn/checkpoint.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/train/evaluate.h"
#include "tools/train/job_display.h"
#include "tools/train/run_folder.h"
#include "tools/train/signals.h"

namespace flare {

void add_predict(CLI::App& app, int&) {
  struct Options {
    std::string source, weights, input, output, device = "auto";
    std::vector<std::string> assignments;
    bool json = false, quiet = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("predict",
                                         "Run a trained model on an array: tokens [n,N] (integers, 0 pads) -> logits [n,K], or "
                                         "points with channels [n,N,in] -> fields [n,N,out]");
  command->add_option("run", o->source, "run folder, or a recipe with --weights")->required()->type_name("RUN");
  command->add_option("--input", o->input, ".npy file to read")->required()->type_name("FILE");
  command->add_option("--output", o->output, ".npy file to write")->required()->type_name("FILE");
  command->add_option("--weights", o->weights, "safetensors file; the run's best checkpoint when not given")->type_name("FILE");
  command->add_option("--device", o->device, "auto, cpu, cuda or cuda:<index>")
      ->capture_default_str()
      ->type_name("auto|cpu|cuda[:i]");
  command->add_option("--set", o->assignments, "change a key of the recipe (repeatable)")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  command->add_flag("--json", o->json, "print one JSON object");
  command->add_flag("--quiet", o->quiet, "no progress on stderr");
  command->footer(help_footer({"flare predict runs/listops-mini --input tokens.npy --output logits.npy",
                               "flare predict runs/darcy --input points.npy --output fields.npy --device cpu --json"},
                              "output, dtype, shape, rows, weights"));
  command->callback([o] {
    check<ConfigError>(is_run_folder(o->source) || !o->weights.empty(), o->source,
                       ": is not a run folder; give --weights FILE.safetensors with a recipe");
    const Recipe recipe = recipe_of(o->source, o->assignments);
    const Device device = parse_device(o->device);
    const PreparedFolder folder = open_data(recipe);  // its dataset.json states vocabulary and classes
    const std::unique_ptr<Task> task = make_task(recipe, folder);
    const std::string path = o->weights.empty() ? weights_of_run(o->source) : o->weights;
    const SafeTensors weights = read_safetensors(path);
    load_parameters(weights.tensors, path, task->model());
    task->adopt(weights.metadata);
    task->model().to(device);
    const Tensor input = read_npy(o->input);
    check<DataError>(input.ndim() >= 2, o->input, ": expected an array of at least two axes, got ", input.shape());
    const EvaluationOptions options = evaluation_options(recipe, folder, apply_precision(recipe.train.precision), device);
    Context context;
    context.dtype = options.dtype;
    const NoGrad no_grad;
    Tensor output;
    const int64_t n = input.size(0);
    check<DataError>(n > 0, o->input, ": holds no rows");
    catch_stop_signals("after this batch");
    const JobDisplay display(o->quiet);
    Job job("predicting", n, "rows");
    for (int64_t begin = 0; begin < n; begin += options.batch_size) {
      job.check_stop();
      Shape shape = input.shape();
      shape[0] = std::min(options.batch_size, n - begin);
      Tensor part;
      try {
        part = task->predict(input.view(shape, input.strides(), begin * input.strides()[0]), context, device);
      } catch (const DataError& error) { throw DataError(cat(o->input, ": rows from ", begin, ": ", error.what())); }
      if (!output) {
        Shape whole = part.shape();
        whole[0] = n;
        output = Tensor::empty(whole, part.dtype());
      }
      copy(part, output.view(part.shape(), output.strides(), begin * output.strides()[0]));
      job.advance(shape[0]);
    }
    write_npy(o->output, output);
    if (o->json) {
      Json result = {
          {"output", o->output}, {"dtype", cat(output.dtype())}, {"shape", Json::array()}, {"rows", n}, {"weights", path}};
      for (const int64_t extent : output.shape()) result["shape"].push_back(extent);
      std::printf("%s\n", result.dump().c_str());
      return;
    }
    std::printf("%s: %s of %ld rows, weights %s\n", o->output.c_str(), cat(output.dtype(), " ", output.shape()).c_str(),
                static_cast<long>(n), path.c_str());
  });
}

}  // namespace flare
