#include "tools/cli/completion.h"

#include <cstdio>
#include <memory>
#include <sstream>

#include "core/check.h"
#include "datasets/registry.h"
#include "tools/cli/bench_settings.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/train/config.h"

namespace flare {
namespace {

std::vector<std::string> split_words(const std::string& text, char at) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, at);) {
    word = word.substr(0, word.find('['));  // cuda[:i]
    if (const size_t first = word.find_first_not_of(' '); first != std::string::npos) words.push_back(word.substr(first));
  }
  return words;
}

std::vector<std::string> dataset_names(const std::string& command) {
  std::vector<std::string> names;
  for (const DatasetEntry& entry : registered_datasets())
    if (command.ends_with("generate") ? entry.generate != nullptr : command.ends_with("prepare") ? entry.prepare != nullptr : true)
      names.push_back(entry.name);
  return names;
}

Argument argument_of(const CLI::Option& option, const std::string& command) {
  using Kind = Argument::Kind;
  if (!option.get_positional() && option.get_type_size() == 0) return {};
  const std::string type = option.get_type_name();
  const auto is = [&](const char* word) { return type.find(word) != std::string::npos; };
  if (const size_t open = type.find('{'), close = type.find('}');
      open != std::string::npos && close != std::string::npos && open < close)
    return {Kind::words, split_words(type.substr(open + 1, close - open - 1), ','), false};
  if (is("|")) return {Kind::words, split_words(type.substr(0, type.find(':', type.rfind('|'))), '|'), false};
  if (is("KEY=VALUE")) return {command == "flare data generate" ? Kind::dataset_keys : Kind::recipe_keys, {}, false};
  if (is("DATASET")) return {Kind::words, dataset_names(command), false};
  if (is("SPLIT")) return {Kind::words, {"train", "val", "test"}, false};
  if (is("SETTING")) {
    std::vector<std::string> words = split_words(setting_names(), ',');
    words.insert(words.begin(), "all");
    return {Kind::words, words, true};
  }
  if (is("DIR")) return {Kind::folders, {}, false};
  if (is("FILE") || is("RUN") || is("RECIPE") || is("TEXT")) return {Kind::files, {}, false};
  return {Kind::anything, {}, false};
}

CompletedCommand command_of(const CLI::App& app, const std::string& path) {
  CompletedCommand command{path, app.get_description(), {}, {}, {}};
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) {
      command.positionals.push_back(argument_of(*option, path));
      continue;
    }
    CompletedOption completed{{}, option->get_description(), argument_of(*option, path), false};
    for (const std::string& name : option->get_lnames()) completed.names.push_back(cat("--", name));
    for (const std::string& name : option->get_snames()) completed.names.push_back(cat("-", name));
    completed.repeats = option->get_expected_max() > 1;
    command.options.push_back(std::move(completed));
  }
  for (const CLI::App* inner : app.get_subcommands([](const CLI::App*) { return true; }))
    command.commands.push_back(command_of(*inner, path + " " + inner->get_name()));
  return command;
}

}  // namespace

CompletedCommand completion_of(const CLI::App& app) { return command_of(app, app.get_name()); }

std::vector<CompletedKey> completed_recipe_keys() {
  std::vector<CompletedKey> keys;
  Recipe recipe;
  const FieldList list = recipe.fields();
  for (const Field& field : list.fields()) {
    if (field.key == "version") continue;
    const std::vector<std::string> words = field.type == "bool"                        ? std::vector<std::string>{"true", "false"}
                                           : field.type.find('|') != std::string::npos ? split_words(field.type, '|')
                                                                                       : std::vector<std::string>{};
    keys.push_back({field.key + "=", field.help, false});
    for (const std::string& word : words) keys.push_back({field.key + "=" + word, field.help, true});
  }
  return keys;
}

void add_completion(CLI::App& app, int&) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a script that completes flare's commands in a shell");
  command->add_option("shell", *shell, "the shell")->required()->type_name("bash|zsh|fish");
  command->footer(
      help_footer({"flare completion bash > ~/.local/share/bash-completion/completions/flare",
                   "flare completion zsh > ~/.zfunc/_flare", "flare completion fish > ~/.config/fish/completions/flare.fish"}));
  command->callback([&app, shell] {
    const CompletedCommand program = completion_of(app);
    std::string text;
    if (*shell == "bash")
      text = bash_completion(program);
    else if (*shell == "zsh")
      text = zsh_completion(program);
    else if (*shell == "fish")
      text = fish_completion(program);
    else
      throw ConfigError(cat("completion: ", *shell, ": no such shell here; choose bash, zsh or fish"));
    std::fputs(text.c_str(), stdout);
  });
}

}  // namespace flare
