#pragma once
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace flare {

/// Help pages as wide as the terminal, descriptions wrapped beside their names. Set it before subcommands are added: they inherit.
std::shared_ptr<CLI::FormatterBase> help_formatter();
/// The end of a help page: the commands as they are typed, and below them what keys --json prints, if it does.
std::string help_footer(const std::vector<std::string>& examples, const std::string& json_keys = "");
/// Sorts the commands of the program into groups; those it does not know go under "More".
void group_commands(CLI::App& app);
/// What the program prints when it is called without arguments: the commands by group, and where to go on.
std::string overview(const CLI::App& app);

}  // namespace flare
