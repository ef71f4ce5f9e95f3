#pragma once
#include <CLI/CLI.hpp>

namespace flare {

/// Each adds one subcommand; its callback does the work and puts the program's exit code into `exit_code`.
void add_train(CLI::App& app, int& exit_code);
void add_eval(CLI::App& app, int& exit_code);
void add_predict(CLI::App& app, int& exit_code);
void add_analyze(CLI::App& app, int& exit_code);
void add_report(CLI::App& app, int& exit_code);
void add_compare(CLI::App& app, int& exit_code);
void add_data(CLI::App& app, int& exit_code);
void add_bench(CLI::App& app, int& exit_code);
void add_info(CLI::App& app, int& exit_code);
void add_completion(CLI::App& app, int& exit_code);

}  // namespace flare
