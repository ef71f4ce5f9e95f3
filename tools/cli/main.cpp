/// The flare program. Exit codes: 0 done; 2 wrong usage or configuration; 3 unusable data or checkpoint; 4 device or numerical
/// failure; 130 interrupted. Whatever fails ends in one line on stderr.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>

#include "core/check.h"
#include "core/log.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/train/fields.h"
#include "tools/train/version.h"

namespace {

int fail(int exit_code, std::string message) {
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';
  std::fprintf(stderr, "flare: %s\n", message.c_str());
  flare::log_debug("ended with exit code ", exit_code, ": ", message);
  return exit_code;
}

/// CLI11 answers a misspelt subcommand with "a subcommand is required".
void check_command_word(CLI::App& app, int argc, char** argv, int at) {
  if (at >= argc || argv[at][0] == '-') return;
  const std::string word = argv[at];
  std::string nearest;
  int best = 1 << 20;
  for (CLI::App* command : app.get_subcommands({})) {
    const int distance = flare::edit_distance(word, command->get_name());
    if (distance == 0) {
      check_command_word(*command, argc, argv, at + 1);
      return;
    }
    if (distance < best) {
      best = distance;
      nearest = command->get_name();
    }
  }
  if (!nearest.empty()) throw flare::ConfigError("unknown command " + word + "; did you mean " + nearest + "? see flare --help");
}

int run(int argc, char** argv) {
  int exit_code = 0;
  CLI::App app("FLARE: Fast Low-rank Attention Routing Engine", "flare");
  app.set_version_flag("--version", std::string("flare " FLARE_VERSION " (commit ") + flare::git_version() + ")");
  app.require_subcommand(1);
  app.formatter(flare::help_formatter());
  app.failure_message([](const CLI::App*, const CLI::Error&) { return std::string(); });
  flare::add_train(app, exit_code);
  flare::add_eval(app, exit_code);
  flare::add_predict(app, exit_code);
  flare::add_analyze(app, exit_code);
  flare::add_report(app, exit_code);
  flare::add_compare(app, exit_code);
  flare::add_data(app, exit_code);
  flare::add_bench(app, exit_code);
  flare::add_info(app, exit_code);
  flare::add_completion(app, exit_code);
  flare::group_commands(app);
  app.footer(
      flare::help_footer({"flare train tools/configs/lra/listops-mini.json", "flare train --help", "flare completion bash"}));
  if (argc == 1) std::fputs(flare::overview(app).c_str(), stderr);
  check_command_word(app, argc, argv, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) { return app.exit(done); } catch (const CLI::ParseError& error) {
    return fail(2, std::string(error.what()) + "; see flare --help");
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  int exit_code = 4;
  try {
    exit_code = run(argc, argv);
  } catch (const flare::Error& error) { return fail(error.exit_code(), error.what()); } catch (const std::bad_alloc&) {
    return fail(4, "out of memory: lower train.batch_size or the size of the model");
  } catch (const std::filesystem::filesystem_error& error) { return fail(3, error.what()); } catch (const std::exception& error) {
    return fail(4, std::string("unexpected failure: ") + error.what());
  } catch (...) { return fail(4, "unexpected failure"); }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) return fail(3, "the results could not be written to standard output");
  return exit_code;
}
