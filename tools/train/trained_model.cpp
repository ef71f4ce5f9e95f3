#include "tools/train/trained_model.h"

#include "nn/checkpoint.h"
#include "tools/train/run_folder.h"

namespace flare {

TrainedModel load_trained(const std::string& source, const PredictorOptions& options) {
  const bool is_run = is_run_folder(source);
  check<ConfigError>(is_run || !options.weights.empty(), source,
                     ": is not a run folder; give --weights FILE.safetensors with a recipe");
  Recipe recipe = recipe_of(source, options.assignments);
  const Device device = parse_device(options.device);
  PreparedFolder folder = open_data(recipe);  // its dataset.json states vocabulary, classes or channels
  std::unique_ptr<Task> task = make_task(recipe, folder);
  const std::string path = options.weights.empty() ? weights_of_run(source) : options.weights;
  SafeTensors weights = read_safetensors(path);
  load_parameters(weights.tensors, path, task->model());
  task->adopt(weights.metadata);
  task->model().to(device);
  const EvaluationOptions evaluation = evaluation_options(recipe, folder, apply_precision(recipe.train.precision), device);
  return {is_run, std::move(recipe), std::move(folder), std::move(task), evaluation, path, std::move(weights.metadata)};
}

}  // namespace flare
