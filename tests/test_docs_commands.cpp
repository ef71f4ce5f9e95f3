/// Every command in a ```sh block of README.md and docs/ is run, as printed, by bash. Each page has a folder of its own, with the
/// tree's files in it; `flare` and `build/flare` are tests/docs/flare there, which makes commands small (it says how). What an
/// earlier page made under data/ and runs/ is at hand, as for a reader. What cannot run here is on the list below, with the reason,
/// and is printed and counted.
#include <fmt/core.h>

#include <chrono>
#include <map>
#include <regex>
#include <set>

#include "core/check.h"
#include "core/npy.h"
#include "tests/cli_fixtures.h"
#include "tests/docs_fixtures.h"

namespace {

using docs::Block;
using docs::Page;

struct Exception {
  const char* pattern;  // of the whole command
  const char* reason;
};
const Exception kNotRun[] = {
    {R"(bash tools/(quickstart|test|setup)\.sh.*)",
     "installs and builds; these scripts are run by hand and by continuous integration"},
    {R"(python3 tools/python/.*)", "needs PyTorch; run by tests/python/run.sh"},
    {R"(build/flare eval tools/configs/pde/elasticity\.json --weights elasticity\.safetensors)",
     "needs weights that such a script wrote"},
    {R"((bash|\.) \.?ci/.*|\.ci/run.*)", "builds and runs every test, this one too"},
    {R"(bash tools/bench/.*)", "measures for a long time, with a GPU and PyTorch"},
    {R"(python3 tools/(bench|golden)/.*)", "needs PyTorch, or measurements of an earlier run"},
    {R"((sudo )?apt(-get)? .*)", "installs packages"},
    {R"((git clone|curl|wget|pip|pip3) .*)", "uses the network"},
    {R"((cmake|ctest|ninja|make|g\+\+|nvcc|c\+\+)( .*)?)", "builds"},
    {R"((build/)?flare data prepare .*)", "needs published files; options are compared with the help by test_docs.cpp"},
    {R"((build/)?flare data generate excerpts .*)", "needs a folder of the reader's texts"},
    {R"((xdg-open|open|firefox|less|\$EDITOR) .*)", "shows something to a person"},
    {R"(compute-sanitizer .*|nsys .*|ncu .*)", "needs a GPU and its tools"},
    {R"(build/flare_tests.*)", "runs tests, of which this is one"},
};
const char* reason_not_to_run(const std::string& command) {
  for (const Exception& e : kNotRun)
    if (std::regex_match(command, std::regex(e.pattern))) return e.reason;
  return nullptr;
}

struct Command {
  int line = 0;
  std::string text;
};

/// A line without the comment that bash would ignore.
std::string without_comment(const std::string& line) {
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote) {
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (c == '#' && (i == 0 || line[i - 1] == ' ')) {
      return docs::trimmed(line.substr(0, i));
    }
  }
  return docs::trimmed(line);
}

/// The commands of a block. A backslash joins lines; what stands in [brackets] may be left out, and is.
std::vector<Command> commands_of(const Block& block) {
  static const std::regex optional(R"( *\[[^\[\]]*\])");
  std::vector<Command> commands;
  std::string joined;
  int first = 0;
  for (size_t i = 0; i < block.lines.size(); ++i) {
    std::string line = without_comment(block.lines[i]);
    if (joined.empty()) first = block.line + 1 + static_cast<int>(i);
    if (line.ends_with("\\")) {
      joined += line.substr(0, line.size() - 1);
      continue;
    }
    joined += line;
    if (joined.starts_with("$ ")) joined = joined.substr(2);
    if (!joined.empty() && joined.find("[[") == std::string::npos) joined = docs::trimmed(std::regex_replace(joined, optional, ""));
    if (!joined.empty()) commands.push_back({first, joined});
    joined.clear();
  }
  return commands;
}

/// Folders under data/ and runs/ that a command reads: those it names, but for where it writes, and the data of its recipe.
std::vector<std::string> folders_read(const std::string& command) {
  static const std::regex folder(R"((?:(--out|--run)[ =])?\b((?:data|runs)/[A-Za-z0-9_.-]+))"), recipe(R"([A-Za-z0-9_./-]+\.json)");
  static const std::regex data("\"data\": *\"([^\"]+)\"");
  std::vector<std::string> found;
  for (std::sregex_iterator at(command.begin(), command.end(), folder), end; at != end; ++at)
    if (!(*at)[1].matched || contains(command, "--resume")) found.push_back((*at)[2]);
  for (std::sregex_iterator at(command.begin(), command.end(), recipe), end; at != end; ++at) {
    const fs::path path = fs::path(kSourceDir) / at->str();
    std::smatch match;
    if (!fs::exists(path)) continue;
    const std::string text = read_file(path.string());
    if (std::regex_search(text, match, data)) found.push_back(match[1]);
  }
  return found;
}

/// The folder in which the commands of one page run.
class Desk {
 public:
  Desk(const fs::path& path) : path_(path) {
    fs::create_directories(path_ / "build");
    for (const auto& entry : fs::directory_iterator(kSourceDir)) {
      const std::string name = entry.path().filename().string();
      static const std::set<std::string> own = {"build", "data", "runs", ".git"};
      if (!own.contains(name) && !name.starts_with("build")) fs::create_symlink(entry.path(), path_ / name);
    }
    fs::create_symlink(fs::path(kSourceDir) / "tests/docs/flare", path_ / "build/flare");
    // The reader's own array: one sample of darcy-gen as tests/docs/flare makes it, 22 x 22 points of (x, y, a).
    write_npy((path_ / "x.npy").string(), Tensor::zeros({1, 22 * 22, 3}, DType::f32));
  }
  void bring(const std::string& folder, const std::vector<fs::path>& earlier) const {
    if (fs::exists(path_ / folder)) return;
    for (auto from = earlier.rbegin(); from != earlier.rend(); ++from)
      if (fs::exists(*from / folder)) {
        fs::create_directories((path_ / folder).parent_path());
        fs::copy(*from / folder, path_ / folder, fs::copy_options::recursive);
        return;
      }
  }
  Outcome run(const std::string& command) const {
    std::ofstream(path_ / "command.sh") << command << "\n";
    const std::string line = cat("cd '", path_.string(), "' && HOME=\"$PWD\" FLARE_PROGRAM='", kProgram, "' PATH='", kSourceDir,
                                 "/tests/docs':\"$PATH\" timeout 100 bash -euo pipefail command.sh >out.txt 2>err.txt </dev/null");
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file((path_ / "out.txt").string()),
            read_file((path_ / "err.txt").string())};
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace

TEST_CASE("docs: how commands are found") {
  const Block block{
      "p.md", "sh", "", 10, {"flare train x.json \\", "  --seed 3   # a comment", "", "echo '# none' [--maybe [..]]", "# all"}};
  const std::vector<Command> found = commands_of(block);
  REQUIRE(found.size() == 2);
  CHECK(found[0].text == "flare train x.json --seed 3");
  CHECK(found[0].line == 11);
  CHECK(commands_of({"p.md", "sh", "", 1, {"flare bench mixer [--shapes a,b] [--json]"}})[0].text == "flare bench mixer");
  CHECK(folders_read("flare eval runs/a --json") == std::vector<std::string>{"runs/a"});
  CHECK(folders_read("flare train x --run runs/a").empty());
  CHECK(folders_read("flare train x --run runs/a --resume") == std::vector<std::string>{"runs/a"});
  CHECK(folders_read("build/flare train tools/configs/lra/listops.json") == std::vector<std::string>{"data/listops"});
  CHECK(reason_not_to_run("bash tools/test.sh --sanitize"));
  CHECK_FALSE(reason_not_to_run("build/flare train tools/configs/lra/listops.json"));
}

TEST_CASE("docs: every command of README.md and docs/ runs") {
  const Scratch scratch;
  const auto start = std::chrono::steady_clock::now();
  // What a reader has from bash tools/quickstart.sh, the first command of README.md, and three runs for pages that compare some.
  std::vector<fs::path> desks = {fs::path(scratch.file("quickstart"))};
  {
    const Desk desk(desks[0]);
    for (const char* command :
         {"flare data generate listops --out data/listops-mini",
          "flare train tools/configs/lra/listops-mini.json --run runs/quickstart-1", "flare eval runs/quickstart-1",
          "flare train tools/configs/lra/listops-mini.json --run runs/a --seed 1",
          "flare train tools/configs/lra/listops-mini.json --run runs/b --seed 2",
          "flare train tools/configs/lra/listops-mini.json --run runs/c --seed 3"}) {
      const Outcome o = desk.run(command);
      REQUIRE_MESSAGE(o.code == 0, command, "\n", o.out, o.err);
    }
    REQUIRE(fs::exists(desks[0] / "runs/quickstart-1/report.html"));
  }
  int ran = 0;
  std::string skipped;
  std::map<std::string, int> skips;
  for (const Page& page : docs::pages()) {
    std::optional<Desk> desk;
    for (const Block& block : page.blocks) {
      if (block.language != "sh") continue;
      for (const Command& command : commands_of(block)) {
        const std::string where = cat(page.name, ":", command.line);
        if (const char* reason = reason_not_to_run(command.text)) {
          skipped += cat("\n    ", where, ": ", command.text, ": ", reason);
          ++skips[reason];
          continue;
        }
        if (!desk) {
          std::string folder = page.name;
          std::replace(folder.begin(), folder.end(), '/', '_');
          desk.emplace(scratch.file(folder));
        }
        for (const std::string& folder : folders_read(command.text)) desk->bring(folder, desks);
        const Outcome o = desk->run(command.text);
        ++ran;
        CHECK_MESSAGE(o.code == 0, where, ": `", command.text, "` ended with exit code ", o.code,
                      " (at the small size of tests/docs/flare; what cannot run here goes on the list kNotRun of "
                      "tests/test_docs_commands.cpp",
                      ", with the reason); it printed\n", o.out, o.err);
      }
    }
    if (desk) desks.push_back(desk->path());
  }
  int n_skipped = 0;
  for (const auto& [reason, n] : skips) n_skipped += n;
  fmt::print("commands of the documentation: {} cases ran, {} skipped{}\n", ran, n_skipped, skipped);
  fmt::print("    took {:.0f} s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  CHECK(ran >= 5);
}
