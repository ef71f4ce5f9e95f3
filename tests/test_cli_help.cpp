/// What the program says of itself: help, man page, shell completion, tables and JSON.
#include <optional>
#include <regex>
#include <set>
#include <sstream>

#include "core/text_table.h"
#include "datasets/registry.h"
#include "tests/terminal_fixtures.h"
#include "tools/train/config.h"

namespace {

/// A help page taken apart.
struct Page {
  std::vector<std::string> words;  // of the command: data, show
  std::string text;
  std::vector<std::string> commands, examples;
  std::set<std::string> options;  // long ones
  std::string name() const {
    std::string name = "flare";
    for (const std::string& word : words) name += " " + word;
    return name;
  }
};

Page page_of(const Scratch& scratch, const std::vector<std::string>& words) {
  Page page;
  page.words = words;
  std::vector<std::string> args = words;
  args.emplace_back("--help");
  const Outcome o = scratch.run(args);
  INFO(page.name(), " --help: ", o.err);
  REQUIRE(o.code == 0);
  page.text = o.out;
  std::istringstream lines(o.out);
  std::string section;
  static const std::regex long_option("--[a-z][a-z-]*"), command("^  ([a-z][a-z0-9-]*)(  .*)?$");
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (!line.empty() && line[0] != ' ') section = line.back() == ':' ? line : "";
    if (section == "Examples:") {
      if (line.starts_with("  ")) page.examples.push_back(line.substr(2));
    } else if (section == "Options:") {
      const std::string names = line.substr(0, line.find(' ', 2));
      for (std::sregex_iterator at(names.begin(), names.end(), long_option), end; line.starts_with("  -") && at != end; ++at)
        page.options.insert(at->str());
    } else if (!section.empty() && section != "Positionals:" && std::regex_match(line, match, command)) {
      page.commands.push_back(match[1]);
    }
  }
  return page;
}

/// The pages of all commands, the program's own first.
const std::vector<Page>& all_pages() {
  static const std::vector<Page> pages = [] {
    const Scratch scratch;
    std::vector<Page> all = {page_of(scratch, {})};
    for (size_t i = 0; i < all.size(); ++i)
      for (const std::string& name : std::vector<std::string>(all[i].commands)) {
        std::vector<std::string> words = all[i].words;
        words.push_back(name);
        all.push_back(page_of(scratch, words));
      }
    return all;
  }();
  return pages;
}

const Page* find_page(const std::vector<std::string>& words) {
  for (const Page& page : all_pages())
    if (page.words == words) return &page;
  return nullptr;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

/// Runs a command of the system in the scratch folder; its output, or nothing when it failed.
std::optional<std::string> run_shell(const Scratch& scratch, const std::string& command) {
  const int status = std::system(("cd '" + scratch.file("") + "' && { " + command + "; } > shell.txt 2>&1").c_str());
  if (status != 0) {
    MESSAGE(command, ": ", read_file(scratch.file("shell.txt")));
    return std::nullopt;
  }
  return read_file(scratch.file("shell.txt"));
}

bool has_program(const std::string& name) {
  const Scratch scratch;
  const bool found = std::system(("command -v " + name + " > /dev/null 2>&1").c_str()) == 0;
  if (!found) MESSAGE("skipped: ", name, " is not installed");
  return found;
}

/// What bash offers for a command line whose last word is being typed.
std::set<std::string> complete(const Scratch& scratch, const std::vector<std::string>& line) {
  std::string words;
  for (const std::string& word : line) words += " '" + word + "'";
  const std::optional<std::string> offered =
      run_shell(scratch,
                "bash -c 'source ./flare.bash; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _flare; "
                "((${#COMPREPLY[@]} == 0)) || printf \"%s\\n\" \"${COMPREPLY[@]}\"' driver" +
                    words);
  REQUIRE(offered.has_value());
  std::set<std::string> out;
  std::istringstream in(*offered);
  for (std::string word; std::getline(in, word);) out.insert(word);
  return out;
}

}  // namespace

TEST_CASE("help: every page ends with two to four commands that the program understands, and fits 100 columns") {
  REQUIRE(all_pages().size() > 10);
  for (const Page& page : all_pages()) {
    CAPTURE(page.name());
    std::istringstream lines(page.text);
    bool after_examples = false;
    for (std::string line; std::getline(lines, line);) {
      after_examples = after_examples || line == "Examples:";
      if (!after_examples) CHECK_MESSAGE(text_width(line) <= 100, line);
    }
    CHECK_MESSAGE((page.examples.size() >= 2 && page.examples.size() <= 4), page.name(),
                  " --help: end it with 2 to 4 examples: "
                  "command->footer(help_footer({\"flare ...\", ...})), see tools/cli/help.h");
    for (const std::string& example : page.examples) {
      CAPTURE(example);
      const std::vector<std::string> words = words_of(example);
      REQUIRE(words.size() > 1);
      CHECK(words[0] == "flare");
      std::vector<std::string> command;
      for (size_t i = 1; i < words.size(); ++i) {
        std::vector<std::string> longer = command;
        longer.push_back(words[i]);
        if (!find_page(longer)) break;
        command = longer;
      }
      const Page* of = find_page(command);
      REQUIRE(of);
      if (!page.words.empty()) CHECK(std::equal(page.words.begin(), page.words.end(), command.begin()));
      for (const std::string& word : words)
        if (word.starts_with("--")) CHECK_MESSAGE(of->options.contains(word), of->name(), " has no ", word);
      for (const std::string& word : words)
        if (word.ends_with(".json") && word.starts_with("tools/")) CHECK(fs::exists(fs::path(kSourceDir) / word));
    }
  }
}

TEST_CASE("help: without arguments an overview by group, exit code 2 and the usual last line") {
  const Scratch scratch;
  const Outcome o = scratch.run({});
  check_failure(o, 2, {"subcommand is required", "see flare --help"});
  CHECK(o.out.empty());
  for (const std::string& command : all_pages().front().commands) CHECK(contains(o.err, "\n  " + command + " "));
  const size_t models = o.err.find("\nModels\n"), data = o.err.find("\nData\n"), machine = o.err.find("\nMachine\n");
  CHECK(models < data);
  CHECK(data < machine);
  CHECK(machine != std::string::npos);
  check_failure(scratch.run({"data"}), 2, {"subcommand is required"});
  CHECK_FALSE(contains(scratch.run({"data"}).err, "Models"));
}

TEST_CASE("help: pages are as wide as the terminal") {
  const Scratch scratch;
  const Terminal t = run_on_terminal(scratch, {"data", "generate", "--help"}, 60);
  CHECK(t.code == 0);
  const std::string before_examples = t.shown.substr(0, t.shown.find("Examples:"));
  for (const std::string& line : shown_lines(before_examples)) CHECK_MESSAGE(text_width(line) <= 60, line);
  const Terminal list = run_on_terminal(scratch, {"data", "list"}, 90);
  for (const std::string& line : shown_lines(list.shown)) CHECK_MESSAGE(text_width(line) <= 90, line);
}

TEST_CASE("man page: has every command and every long option") {
  std::string man = read_file(std::string(kSourceDir) + "/tools/man/flare.1");
  for (size_t at = 0; (at = man.find("\\-", at)) != std::string::npos;) man.erase(at, 1);
  for (const Page& page : all_pages()) {
    if (page.words.empty() || !page.commands.empty()) continue;
    const size_t begin = man.find(".SS \"" + page.name());
    CHECK_MESSAGE(begin != std::string::npos, "tools/man/flare.1: add a section .SS \"", page.name(), "\"");
    if (begin == std::string::npos) continue;
    const std::string section = man.substr(begin, std::min(man.find(".SS", begin + 1), man.find(".SH", begin)) - begin);
    for (const std::string& option : page.options) {
      if (option == "--help") continue;
      CHECK_MESSAGE(std::regex_search(section, std::regex(option + "(?![a-z-])")), "tools/man/flare.1: say what ", option,
                    " does in section .SS \"", page.name(), "\"");
    }
  }
  for (const char* word : {"FLARE_THREADS", "FLARE_SYNC", "NO_COLOR", "TERM", ".SH EXIT STATUS", ".SH EXAMPLES"})
    CHECK(contains(man, word));
  for (const char* code : {"0", "2", "3", "4", "130"}) CHECK(contains(man, std::string("\n.B ") + code + "\n"));
}

TEST_CASE("man page: groff has nothing to complain about") {
  if (!has_program("groff")) return;
  const Scratch scratch;
  const std::optional<std::string> said =
      run_shell(scratch, "groff -man -ww -Tascii -P-cbou '" + std::string(kSourceDir) + "/tools/man/flare.1' 2>&1 > page.txt");
  REQUIRE(said.has_value());
  CHECK(*said == "");
  CHECK(contains(read_file(scratch.file("page.txt")), "EXIT STATUS"));
}

TEST_CASE("completion: bash offers commands, options, choices, names, keys and files") {
  if (!has_program("bash")) return;
  const Scratch scratch;
  scratch.write("flare.bash", scratch.run({"completion", "bash"}).out);
  fs::create_directories(scratch.file("runs/one run"));
  scratch.write("recipe.json", "{}");
  using Words = std::set<std::string>;
  const Page& program = all_pages().front();
  CHECK(complete(scratch, {"flare", ""}) == Words(program.commands.begin(), program.commands.end()));
  CHECK(complete(scratch, {"flare", "tr"}) == Words{"train"});
  CHECK(complete(scratch, {"flare", "data", ""}) == Words{"list", "show", "generate", "prepare"});
  for (const Page& page : all_pages()) {  // nothing is missing, whatever commands there are
    if (page.words.empty()) continue;
    std::vector<std::string> line = {"flare"};
    line.insert(line.end(), page.words.begin(), page.words.end());
    line.emplace_back("--");
    CAPTURE(page.name());
    CHECK(complete(scratch, line) == page.options);
  }
  CHECK(complete(scratch, {"flare", "eval", "runs/a", "--device", "c"}) == Words{"cpu", "cuda"});
  CHECK(complete(scratch, {"flare", "eval", "runs/a", "--device", "=", "cp"}) == Words{"cpu"});
  CHECK(complete(scratch, {"flare", "eval", "runs/a", "--split", ""}) == Words{"train", "val", "test"});
  CHECK(complete(scratch, {"flare", "completion", ""}) == Words{"bash", "zsh", "fish"});
  CHECK(complete(scratch, {"flare", "bench", "ops", "--dtype", ""}) == Words{"f32", "bf16"});
  CHECK(complete(scratch, {"flare", "bench", "step", "ela"}) == Words{"elasticity"});
  CHECK(complete(scratch, {"flare", "bench", "step", "listops", "rec"}) == Words{"recipe.json"});

  Words generated, prepared;
  for (const DatasetEntry& entry : registered_datasets()) {
    if (entry.generate) generated.insert(entry.name);
    if (entry.prepare) prepared.insert(entry.name);
  }
  CHECK(complete(scratch, {"flare", "data", "generate", ""}) == generated);
  CHECK(complete(scratch, {"flare", "data", "prepare", ""}) == prepared);
  CHECK(complete(scratch, {"flare", "data", "generate", "pathfinder", "--set", ""}) == Words{"size=", "segments=", "shortest="});
  CHECK(complete(scratch, {"flare", "data", "generate", "--set", "min"}) == Words{});  // of no data set yet

  Words keys;
  Recipe recipe;
  const FieldList list = recipe.fields();
  for (const Field& field : list.fields())
    if (field.key != "version") keys.insert(field.key + "=");
  CHECK(complete(scratch, {"flare", "train", "recipe.json", "--set", ""}) == keys);
  CHECK(complete(scratch, {"flare", "train", "recipe.json", "--set", "optim.l"}) == Words{"optim.lr="});
  CHECK(complete(scratch, {"flare", "train", "recipe.json", "--set", "train.precision", "=", ""}) == Words{"fp32", "tf32", "bf16"});
  CHECK(complete(scratch, {"flare", "train", "recipe.json", "--set", "train.precision", "=", "b"}) == Words{"bf16"});
  CHECK(complete(scratch, {"flare", "train", "recipe.json", "--set", "optim.lr", "=", "5", "--se"}) ==
        Words{"--set", "--seed", "--seeds"});

  CHECK(complete(scratch, {"flare", "train", "rec"}) == Words{"recipe.json"});
  CHECK(complete(scratch, {"flare", "eval", "runs/o"}) == Words{"runs/one run"});
  CHECK(complete(scratch, {"flare", "data", "show", ""}) == Words{"runs"});  // folders only
}

TEST_CASE("completion: zsh and fish accept their scripts") {
  const Scratch scratch;
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const Outcome o = scratch.run({"completion", shell});
    REQUIRE(o.code == 0);
    for (const char* part : {"seeds", "darcy-gen", "optim.lr="}) CHECK(contains(o.out, part));
    scratch.write("script", o.out);
    if (has_program(shell)) CHECK(run_shell(scratch, shell + " -n script") == "");
  }
  check_failure(scratch.run({"completion", "csh"}), 2, {"csh", "bash, zsh or fish"});
  if (has_program("fish")) {
    const auto offered = [&](const std::string& line) {
      return run_shell(scratch, "HOME=$PWD fish --no-config -c 'source script; complete -C \"" + line + "\"'").value_or("");
    };
    CHECK(contains(offered("flare tra"), "train\t"));
    CHECK(contains(offered("flare data sh"), "show\t"));
    CHECK(contains(offered("flare train x --set optim.l"), "optim.lr="));
    CHECK(contains(offered("flare data generate pathf"), "pathfinder"));
    CHECK(contains(offered("flare eval x --device cu"), "cuda"));
    CHECK_FALSE(contains(offered("flare data list --"), "--verify"));
  }
}

TEST_CASE("cli: --json of the data commands and of predict") {
  const Scratch scratch;
  const Json list = Json::parse(scratch.run({"data", "list", "--json"}).out);
  CHECK(list["datasets"].size() == registered_datasets().size());
  for (const Json& set : list["datasets"])
    if (set["name"] == "listops") {
      CHECK((set["generate"] == true && set["prepare"] == true));
      CHECK(set["options"][0]["name"] == "min_length");
    }
  const Outcome made = scratch.run({"data", "generate", "listops", "--out", "data", "--train", "40", "--val", "8", "--test", "8",
                                    "--json", "--set", "min_length=4", "--set", "max_length=24"});
  REQUIRE(made.code == 0);
  CHECK(std::count(made.out.begin(), made.out.end(), '\n') == 1);
  const Outcome shown = scratch.run({"data", "show", "data", "--json"});
  CHECK(shown.out == made.out);
  const Json folder = Json::parse(shown.out);
  CHECK((folder["name"] == "listops" && folder["kind"] == "sequence_classification" && folder["classes"] == 10));
  CHECK(folder["splits"]["train"]["samples"] == 40);
  CHECK(folder["splits"].begin().key() == "train");
  int64_t n = 0;
  for (const Json& count : folder["splits"]["train"]["labels"]) n += count.get<int64_t>();
  CHECK(n == 40);
  CHECK(folder["splits"]["train"]["length"]["max"].get<int64_t>() < 24);
  CHECK(folder["fields"][0] == Json{{"name", "tokens"}, {"dtype", "u8"}, {"shape", Json::array()}, {"ragged", true}});
  CHECK(Json::parse(scratch.run({"data", "show", "data", "--json", "--verify"}).out)["verified"] == true);
  const std::string page = scratch.run({"data", "show", "data", "--verify"}).out;
  CHECK(contains(page, "checksums agree"));
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) CHECK(text_width(line) <= 100);
  std::fstream(scratch.file("data/train.labels.npy"), std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-1, std::ios::end)
      .put('\7');
  check_failure(scratch.run({"data", "show", "data", "--verify"}), 3, {"train.labels.npy", "SHA-256"});
}
