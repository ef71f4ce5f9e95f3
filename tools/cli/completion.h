#pragma once
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace flare {

/// What may stand in one place of a command line.
struct Argument {
  enum class Kind { flag, words, files, folders, recipe_keys, dataset_keys, anything };
  Kind kind = Kind::flag;
  std::vector<std::string> words;  // of Kind::words; beside files where those fit too
  bool also_files = false;
};
struct CompletedOption {
  std::vector<std::string> names;  // "--help", "-h"
  std::string help;
  Argument argument;
  bool repeats = false;
};
/// One command and its subcommands, as the shells need to know them.
struct CompletedCommand {
  std::string path;  // "flare data show"
  std::string help;
  std::vector<CompletedOption> options;
  std::vector<Argument> positionals;
  std::vector<CompletedCommand> commands;
};

/// Reads the commands and options out of the program's own parser. What an option takes is told by its type: DIR; FILE, RUN,
/// RECIPE; words between bars (f32|bf16) or of an IsMember check; KEY=VALUE; DATASET, SPLIT, SETTING.
CompletedCommand completion_of(const CLI::App& app);

/// "group.key=" or "key=word" of every recipe key, and what it means.
struct CompletedKey {
  std::string text, help;
  bool is_whole = false;  // key and value
};
std::vector<CompletedKey> completed_recipe_keys();

// Scripts that define the completion of flare.
std::string bash_completion(const CompletedCommand& program);
std::string zsh_completion(const CompletedCommand& program);
std::string fish_completion(const CompletedCommand& program);

}  // namespace flare
