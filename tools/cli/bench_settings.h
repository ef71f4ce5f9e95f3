#pragma once
/// The settings of `flare bench step` and `flare bench memory`: models and batch shapes of real tasks, with synthetic data.
#include <memory>
#include <string>
#include <vector>

#include "tools/train/task.h"

namespace flare {

enum class SettingKind { sequence, pair, points };

/// What the data would say, and the published settings as a recipe.
struct Setting {
  const char* name;
  SettingKind kind;
  int64_t length;
  int64_t vocabulary, n_classes;      // sequence, pair
  int64_t in_channels, out_channels;  // points
  bool ragged;                        // sequences of n/4 to n tokens, masked; otherwise all of n
  const char *model, *train;          // sections of the recipe
};

/// The names of all settings, joined by ", ".
std::string setting_names();
struct ChosenSetting {
  const Setting* setting;
  Recipe recipe;
};
/// A setting's name, or the path of a recipe of a task of that name, with assignments as for --set. ConfigError otherwise.
ChosenSetting choose_setting(const std::string& word, const std::vector<std::string>& assignments);
/// The words themselves, or all names for the one word "all".
std::vector<std::string> expand_settings(const std::vector<std::string>& words);
/// The model of a setting, without data, for samples of `length` tokens.
std::unique_ptr<Task> synthetic_task(const Setting& setting, const Recipe& recipe, int64_t length);
Batch synthetic_batch(const Setting& setting, int64_t batch_size, int64_t length, bool masked, uint64_t seed);

}  // namespace flare
