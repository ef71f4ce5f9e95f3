#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace flare {

struct TrainedModel;

struct PredictorOptions {
  std::string weights;                   // safetensors file; empty: the run's best checkpoint, averaged where there is an average
  std::string device = "auto";           // auto, cpu, cuda or cuda:<index>
  std::vector<std::string> assignments;  // "key=value" over the recipe, such as task.data=<prepared folder>
};

/// A trained model that answers: what `flare predict` does, for C++ programs. Needs no header of another library.
class Predictor {
 public:
  /// `source`: a run folder, or a recipe file together with `weights`. The prepared data folder that the recipe names must be
  /// there: its dataset.json states vocabulary, classes or channels. ConfigError, DataError, DeviceError as the program's.
  explicit Predictor(const std::string& source, const PredictorOptions& options = {});
  ~Predictor();

  /// Tokens [n,N] (i64, i32 or u8; 0 pads) -> logits [n,K], or points with channels [n,N,in] -> fields [n,N,out] in the data's
  /// units; f32 on the CPU. Works through the rows in batches. DataError on values that the model cannot take.
  Tensor predict(const Tensor& rows);

  const std::string& weights() const;  // the file that was read

 private:
  std::unique_ptr<TrainedModel> model_;
};

}  // namespace flare
