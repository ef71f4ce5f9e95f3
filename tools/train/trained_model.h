#pragma once
#include <map>
#include <memory>
#include <string>

#include "tools/train/evaluate.h"
#include "tools/train/predictor.h"

namespace flare {

/// A trained model on its device, with the data folder that its recipe names: what evaluating, predicting and analysing begin with.
struct TrainedModel {
  bool is_run = false;  // whether the source was a run folder
  Recipe recipe;
  PreparedFolder folder;
  std::unique_ptr<Task> task;
  EvaluationOptions options;                    // by the recipe
  std::string weights;                          // the file that was read
  std::map<std::string, std::string> metadata;  // of that file
};

/// `source`: a run folder, or a recipe file together with options.weights. ConfigError, DataError, DeviceError as the program's.
TrainedModel load_trained(const std::string& source, const PredictorOptions& options);

}  // namespace flare
