#pragma once
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace flare {

// Options that several commands have, with one wording.

/// `run`: a run folder or a recipe.
void add_run_option(CLI::App& command, std::string& value);
void add_weights_option(CLI::App& command, std::string& value);
void add_device_option(CLI::App& command, std::string& value, const std::string& more = "");
/// --set key=value, again and again. `help`: what is set, and an example where it helps.
void add_set_option(CLI::App& command, std::vector<std::string>& values, const std::string& help = "change a key of the recipe");

}  // namespace flare
