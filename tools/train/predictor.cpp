#include "tools/train/predictor.h"

#include <algorithm>

#include "autograd/node.h"
#include "tools/train/trained_model.h"

namespace flare {

Predictor::Predictor(const std::string& source, const PredictorOptions& options)
    : model_(std::make_unique<TrainedModel>(load_trained(source, options))) {}

Predictor::~Predictor() = default;

const std::string& Predictor::weights() const { return model_->weights; }

Tensor Predictor::predict(const Tensor& rows) {
  check<DataError>(rows.ndim() >= 2, "expected an array of at least two axes, got ", rows.shape());
  const int64_t n = rows.size(0);
  check<DataError>(n > 0, "holds no rows");
  const EvaluationOptions& options = model_->options;
  Context context;
  context.dtype = options.dtype;
  const NoGrad no_grad;
  Tensor output;
  for (int64_t begin = 0; begin < n; begin += options.batch_size) {
    Shape shape = rows.shape();
    shape[0] = std::min(options.batch_size, n - begin);
    Tensor part;
    try {
      part = model_->task->predict(rows.view(shape, rows.strides(), begin * rows.strides()[0]), context, options.device);
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
