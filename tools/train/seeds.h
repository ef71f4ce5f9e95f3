#pragma once
#include <cstdint>
#include <string>

#include "tools/train/trainer.h"

namespace flare {

/// Trains n >= 2 runs, from the recipe's seed upward, each into its seed_folder, then sums them up on stdout (a table, or one JSON
/// object) and in <run>-seeds.json: the test score of each, mean, standard deviation (over n - 1), and the accuracy of always
/// answering the majority class where there are classes. The file is up to date after every run.
///
/// A finished run of the same configuration is kept; an unfinished one is continued with options.resume, and a ConfigError without.
/// A run that fails does not stop the others; its error is thrown at the end, naming the seed. Returns 0, or 130 after a signal.
int train_seeds(const TrainOptions& options, int64_t n);

/// Mean and standard deviation (over n - 1; NaN for fewer than two values).
struct MeanDeviation {
  double mean = 0, deviation = 0;
};
MeanDeviation mean_deviation(const std::vector<double>& values);

}  // namespace flare
