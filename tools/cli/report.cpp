/// flare report and flare compare: what runs left behind, as a page and as a table.
#include "tools/report/report.h"

#include <cstdio>
#include <memory>

#include "tools/cli/commands.h"
#include "tools/report/comparison.h"

namespace flare {

void add_report(CLI::App& app, int&) {
  struct Options {
    std::vector<std::string> runs;
    std::string out;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "Write the report of a run, or of several side by side, as one HTML file");
  command->add_option("runs", o->runs, "run folders")->required();
  command->add_option("--out", o->out, "file to write; <run>/report.html for one run, report.html for several when not given");
  command->callback([o] {
    std::string out = o->out;
    if (out.empty()) out = o->runs.size() == 1 ? o->runs[0] + "/report.html" : "report.html";
    write_report(o->runs, out);
    std::printf("%s\n", out.c_str());
  });
}

void add_compare(CLI::App& app, int&) {
  struct Options {
    std::vector<std::string> runs;
    bool json = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("compare", "Compare runs: results, cost, and configuration keys that differ");
  command->add_option("runs", o->runs, "run folders")->required();
  command->add_flag("--json", o->json, "print one JSON object");
  command->callback([o] {
    std::vector<RunRecord> runs;
    for (const std::string& run : o->runs) runs.push_back(load_run(run));
    if (o->json) {
      std::printf("%s\n", comparison_json(runs).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
      return;
    }
    for (const RunRecord& run : runs)
      for (const std::string& warning : run.warnings) std::fprintf(stderr, "%s: %s\n", run.path.c_str(), warning.c_str());
    std::fputs(text_table(results_table(runs, true)).c_str(), stdout);
    const Table differences = differences_table(runs);
    if (!differences.rows.empty())
      std::printf("\n%s", text_table(differences).c_str());
    else if (runs.size() > 1)
      std::printf("\nthe configurations are the same\n");
  });
}

}  // namespace flare
