#include "tools/cli/help.h"

#include <algorithm>

#include <unistd.h>

#include <fmt/format.h>

#include "core/text_table.h"

namespace flare {
namespace {

constexpr int kColumn = 26;  // where descriptions begin

/// A name and what it means; a long name has its description below it.
std::string entry(const std::string& name, const std::string& description, int width) {
  std::string text = fmt::format("  {}", name);
  if (description.empty()) return text + "\n";
  if (text_width(text) + 2 > static_cast<size_t>(kColumn))
    text.append(1, '\n').append(kColumn, ' ');
  else
    text.append(static_cast<size_t>(kColumn) - text_width(text), ' ');
  return text + wrap_indented(description, width, kColumn) + "\n";
}

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    return entry(make_option_name(option, is_positional) + make_option_opts(option), make_option_desc(option), width_);
  }
  /// Without the names that CLI11 gives to its checks.
  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text = CLI::Formatter::make_option_opts(option);
    for (const auto& [from, to] :
         {std::pair(":NONNEGATIVE", ""), {":POSITIVE", ""}, {":INT in", " in"}, {":FLOAT in", " in"}, {"TEXT:{", "{"}})
      if (const size_t at = text.find(from); at != std::string::npos) text.replace(at, std::string_view(from).size(), to);
    return text;
  }
  std::string make_subcommand(const CLI::App* command) const override {
    return entry(command->get_name(), command->get_description(), width_);
  }
  std::string make_description(const CLI::App* app) const override {
    return wrap_indented(app->get_description(), width_, 0) + "\n";
  }

 private:
  int width_ = page_width(STDOUT_FILENO);
};

const std::pair<const char*, std::vector<std::string>> kGroups[] = {
    {"Models", {"train", "eval", "predict", "report", "compare", "analyze"}},
    {"Data", {"data"}},
    {"Machine", {"bench", "info", "completion"}},
};

}  // namespace

std::shared_ptr<CLI::FormatterBase> help_formatter() { return std::make_shared<HelpFormatter>(); }

std::string help_footer(const std::vector<std::string>& examples, const std::string& json_keys) {
  std::string out;
  if (!json_keys.empty())
    out = fmt::format("{}\n\n", wrap_indented(fmt::format("With --json: {}", json_keys), page_width(STDOUT_FILENO), 2));
  out += "Examples:";
  for (const std::string& example : examples) out.append("\n  ").append(example);
  return out;
}

void group_commands(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands({})) {
    command->group("More");
    for (const auto& [group, names] : kGroups)
      if (std::find(names.begin(), names.end(), command->get_name()) != names.end()) command->group(group);
  }
}

std::string overview(const CLI::App& app) {
  const int width = page_width(STDERR_FILENO);
  std::string text = app.get_description() + "\n";
  std::vector<std::string> groups;
  for (const auto& [group, names] : kGroups) groups.emplace_back(group);
  groups.emplace_back("More");
  for (const std::string& group : groups) {
    TextTable table("ll");
    int n = 0;
    for (const CLI::App* command : app.get_subcommands([&](const CLI::App* c) { return c->get_group() == group; })) {
      table.row({fmt::format("{:10}", command->get_name()), command->get_description()});
      ++n;
    }
    if (n > 0) text += fmt::format("\n{}\n{}", group, table.text(width, 2));
  }
  return text + "\nflare <command> --help says more; flare train tools/configs/lra/listops-mini.json trains a small model.\n";
}

}  // namespace flare
