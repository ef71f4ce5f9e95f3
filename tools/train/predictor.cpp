#include "tools/train/predictor.h"

#include <algorithm>

#include "autograd/node.h"
#include "nn/checkpoint.h"
#include "tools/train/evaluate.h"
#include "tools/train/run_folder.h"
#include "tools/train/task.h"

namespace flare {

Predictor::Predictor(const std::string& source, const PredictorOptions& options) {
  check<ConfigError>(is_run_folder(source) || !options.weights.empty(), source,
                     ": is not a run folder; give --weights FILE.safetensors with a recipe");
  const Recipe recipe = recipe_of(source, options.assignments);
  device_ = parse_device(options.device);
  const PreparedFolder folder = open_data(recipe);
  task_ = make_task(recipe, folder);
  weights_ = options.weights.empty() ? weights_of_run(source) : options.weights;
  const SafeTensors weights = read_safetensors(weights_);
  load_parameters(weights.tensors, weights_, task_->model());
  task_->adopt(weights.metadata);
  task_->model().to(device_);
  dtype_ = apply_precision(recipe.train.precision);
  batch_size_ = evaluation_options(recipe, folder, dtype_, device_).batch_size;
}

Predictor::~Predictor() = default;

Tensor Predictor::predict(const Tensor& rows) {
  check<DataError>(rows.ndim() >= 2, "expected an array of at least two axes, got ", rows.shape());
  const int64_t n = rows.size(0);
  check<DataError>(n > 0, "holds no rows");
  Context context;
  context.dtype = dtype_;
  const NoGrad no_grad;
  Tensor output;
  for (int64_t begin = 0; begin < n; begin += batch_size_) {
    Shape shape = rows.shape();
    shape[0] = std::min(batch_size_, n - begin);
    Tensor part;
    try {
      part = task_->predict(rows.view(shape, rows.strides(), begin * rows.strides()[0]), context, device_);
    } catch (const DataError& error) { throw DataError(cat("rows from ", begin, ": ", error.what())); }
    if (!output) {
      Shape whole = part.shape();
      whole[0] = n;
      output = Tensor::empty(whole, part.dtype());
    }
    copy(part, output.view(part.shape(), output.strides(), begin * output.strides()[0]));
  }
  return output;
}

}  // namespace flare
