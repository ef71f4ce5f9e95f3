/// What the documentation shows is true: code is quoted word for word from files that are compiled, recipes are recipes, options
/// exist, links lead somewhere. Commands are run by test_docs_commands.cpp, numbers computed by test_docs_learn.cpp. Pages are
/// found by themselves; what a block must look like:
///   ```cpp    after a line <!-- quote FILE -->: lines of FILE, in order; a line "…" or "// …" stands for lines left out
///   ```json   a recipe; after a line <!-- fragment -->: JSON, or members of an object, or an object a line
///   ```sh     commands
#include <fmt/core.h>

#include <map>
#include <regex>
#include <set>

#include "core/file.h"
#include "tests/cli_fixtures.h"
#include "tests/docs_fixtures.h"
#include "tools/train/config.h"

namespace {

using docs::Block;
using docs::Page;

bool is_ellipsis(const std::string& line) {
  const std::string t = docs::trimmed(line);
  return t == "…" || t == "// …";
}

/// What is wrong with quoting these lines from a file's; empty if nothing.
std::string quote_error(const std::vector<std::string>& quoted, const std::vector<std::string>& source) {
  size_t from = 0, line = 0;
  while (line < quoted.size()) {
    if (is_ellipsis(quoted[line]) || quoted[line].empty()) {
      ++line;
      continue;
    }
    size_t end = line;
    while (end < quoted.size() && !is_ellipsis(quoted[end])) ++end;
    while (quoted[end - 1].empty()) --end;
    const auto first = quoted.begin() + static_cast<std::ptrdiff_t>(line), last = quoted.begin() + static_cast<std::ptrdiff_t>(end);
    const auto found = std::search(source.begin() + static_cast<std::ptrdiff_t>(from), source.end(), first, last);
    if (found == source.end()) {
      // The line that breaks the longest match is the one to look at.
      size_t most = 0;
      for (size_t at = from; at < source.size(); ++at) {
        size_t n = 0;
        while (line + n < end && at + n < source.size() && source[at + n] == quoted[line + n]) ++n;
        most = std::max(most, n);
      }
      return cat("does not hold, word for word and in this order, the line\n    ", quoted[line + std::min(most, end - line - 1)]);
    }
    from = static_cast<size_t>(found - source.begin()) + (end - line);
    line = end;
  }
  return "";
}

std::string recipe_error(const Block& block) {
  const std::string text = block.text();
  if (!block.note_after("fragment")) {
    try {
      parse_recipe(text, block.where());
      return "";
    } catch (const std::exception& e) { return cat(e.what(), "; a piece of a recipe has <!-- fragment --> in the line before"); }
  }
  if (Json::accept(text) || Json::accept("{" + text + "}")) return "";
  for (const std::string& line : block.lines)
    if (!line.empty() && !Json::accept(line)) return "is neither JSON, nor members of an object, nor an object a line";
  return "";
}

/// The anchors of a page's headings, as the usual viewers make them: lower case, blanks to '-', other signs dropped.
std::set<std::string> anchors_of(const Page& page) {
  std::set<std::string> anchors;
  for (const docs::Line& line : page.prose) {
    if (!line.text.starts_with("#")) continue;
    std::string anchor;
    for (char c : docs::trimmed(line.text.substr(line.text.find_first_not_of('#')))) {
      const auto u = static_cast<unsigned char>(c);
      if (c == ' ')
        anchor += '-';
      else if (std::isalnum(u) || c == '-' || c == '_' || u >= 0x80)
        anchor += static_cast<char>(std::tolower(u));
    }
    anchors.insert(anchor);
  }
  return anchors;
}

/// Help pages by subcommand, "" being the program's own.
class Help {
 public:
  const std::string& of(const std::string& command) {
    const auto at = pages_.find(command);
    if (at != pages_.end()) return at->second;
    std::vector<std::string> args;
    std::istringstream words(command);
    for (std::string w; words >> w;) args.push_back(w);
    args.emplace_back("--help");
    const Outcome o = scratch_.run(args);
    // The examples at its end are commands of others too.
    return pages_[command] = o.code == 0 ? o.out.substr(0, o.out.find("\nExamples:\n")) : "";
  }
  bool has_subcommand(const std::string& command, const std::string& word) {
    const std::regex line("\n  " + word + "( |\n)");
    return std::regex_search(of(command), line);
  }

 private:
  Scratch scratch_;
  std::map<std::string, std::string> pages_;
};

/// What is wrong with a command line that begins with `flare`, as far as help pages tell: an unknown subcommand or an option that
/// none of the subcommands it names has. Alternatives may be separated by '|'.
std::string usage_error(const std::string& command, Help& help) {
  static const std::regex word(R"(--?[A-Za-z][A-Za-z-]*|[A-Za-z][A-Za-z0-9_-]*)");
  const std::string rest = command.substr(command.find("flare") + 5);
  std::string top, known = help.of("");
  bool first = true;
  for (std::sregex_iterator at(rest.begin(), rest.end(), word), end; at != end; ++at) {
    const std::string w = at->str();
    if (w.starts_with("-")) {
      const std::regex option("[ ,\\[]" + w + "([^A-Za-z-]|$)");
      if (w.starts_with("--") && !std::regex_search(known, option))
        return cat("no option ", w, " in the help of flare", top.empty() ? "" : " ", top);
      continue;
    }
    const bool is_word = at->position() > 0 && (rest[static_cast<size_t>(at->position()) - 1] == ' ');
    if (first) {
      if (!help.has_subcommand("", w)) return cat("flare has no subcommand ", w);
      top = w;
      known += help.of(top);
      first = false;
    } else if (is_word && help.has_subcommand(top, w)) {
      known += help.of(top + " " + w);
    }
  }
  return "";
}

/// A span or line that is a command of the program.
bool is_flare(const std::string& text) { return text.starts_with("flare ") || text.starts_with("build/flare "); }

}  // namespace

TEST_CASE("docs: the checks catch what they forbid") {
  const std::vector<std::string> source = {"int a;", "int b;", "", "int c;"};
  CHECK(quote_error({"int a;", "int b;"}, source).empty());
  CHECK(quote_error({"int a;", "// …", "int c;"}, source).empty());
  CHECK_FALSE(quote_error({"int a;", "int c;"}, source).empty());
  CHECK_FALSE(quote_error({"int c;", "…", "int a;"}, source).empty());
  CHECK_FALSE(quote_error({" int a;"}, source).empty());
  CHECK(contains(quote_error({"int a;", "int B;"}, source), "int B;"));

  const Page page = docs::parse_page("p.md", {"# A *b*: c", "<!-- fragment -->", "```json", "\"seed\": 1", "```", "x"});
  REQUIRE(page.blocks.size() == 1);
  CHECK(page.blocks[0].line == 3);
  CHECK(page.prose.size() == 3);
  CHECK(anchors_of(page) == std::set<std::string>{"a-b-c"});
  CHECK(recipe_error(page.blocks[0]).empty());
  CHECK_FALSE(recipe_error({"p.md", "json", "", 1, {"\"seed\": 1"}}).empty());
  CHECK(recipe_error({"p.md", "json", "", 1, {R"({"train": {"steps": 3}})"}}).empty());
  CHECK(contains(recipe_error({"p.md", "json", "", 1, {R"({"train": {"step": 3}})"}}), "steps"));
  CHECK_FALSE(recipe_error({"p.md", "json", "fragment", 1, {"{\"a\": "}}).empty());

  Help help;
  CHECK(usage_error("flare train <recipe.json> [--set optim.lr=1] [--resume]", help).empty());
  CHECK(usage_error("flare data list | show DIR [--verify]", help).empty());
  CHECK(contains(usage_error("flare trian x.json", help), "no subcommand trian"));
  CHECK(contains(usage_error("flare eval RUN --resume", help), "--resume"));
  CHECK(contains(usage_error("flare data show DIR --check", help), "--check"));
}

TEST_CASE("docs: code is quoted word for word") {
  std::string examples;
  for (const auto& entry : fs::directory_iterator(fs::path(kSourceDir) / "docs/examples"))
    if (entry.is_regular_file()) examples += read_file(entry.path().string());
  int quotes = 0;
  for (const Page& page : docs::pages()) {
    for (const Block& block : page.blocks) {
      const auto file = block.note_after("quote");
      if (!file) {
        CHECK_MESSAGE(
            (block.language != "cpp" || contains(examples, block.text())), block.where(),
            ": this block of C++ names no file; put <!-- quote FILE --> in the line before, and the code in a file that is "
            "compiled, such as one of docs/examples");
        continue;
      }
      ++quotes;
      const fs::path path = fs::path(kSourceDir) / *file;
      if (!fs::exists(path)) {
        FAIL_CHECK(block.where(), ": quotes ", *file, ", which does not exist");
        continue;
      }
      const std::string error = quote_error(block.lines, docs::lines_of(path));
      CHECK_MESSAGE(error.empty(), block.where(), ": ", *file, " ", error);
    }
  }
  fmt::print("docs: {} quotations\n", quotes);
  CHECK(quotes >= 10);
}

TEST_CASE("docs: add_an_op.md shows its example from the first line to the last, as tests/newcomer.sh needs it") {
  const auto without_blanks = [](const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines)
      if (!line.empty()) text += line + "\n";
    return text;
  };
  std::map<std::string, std::vector<std::string>> shown;
  for (const Page& page : docs::pages())
    if (page.name == "docs/add_an_op.md")
      for (const Block& block : page.blocks)
        for (const std::string& line : block.lines) shown[block.note_after("quote").value_or("")].push_back(line);
  for (const char* file : {"docs/examples/cumsum.h", "docs/examples/cumsum.cu"}) {
    INFO(file);
    CHECK(without_blanks(shown[file]) == without_blanks(docs::lines_of(fs::path(kSourceDir) / file)));
  }
}

TEST_CASE("docs: recipes are recipes, and every kind of block has a check") {
  // Kinds that no test reads, and why that is right.
  const std::map<std::string, std::string> unread = {
      {"", "figures, formulas and output"}, {"text", "the same"},        {"diff", "applied by tests/newcomer.sh where it is ours"},
      {"cmake", "a build of its own"},      {"python", "a peer's side"},
  };
  std::map<std::string, int> counts;
  for (const Page& page : docs::pages()) {
    for (const Block& block : page.blocks) {
      if (block.language == "json") {
        const std::string error = recipe_error(block);
        CHECK_MESSAGE(error.empty(), block.where(), ": ", error);
      }
      const bool is_read = block.language == "cpp" || block.language == "sh" || block.language == "json";
      CHECK_MESSAGE((is_read || unread.contains(block.language)), block.where(), ": no test reads ```", block.language,
                    " blocks; use cpp, sh, json or text");
      if (!is_read && !block.note_after("quote") && !block.note_after("numbers")) ++counts[block.language];
    }
  }
  for (const auto& [language, n] : counts)
    fmt::print("docs: {} blocks of kind \"{}\" not read: {}\n", n, language, unread.contains(language) ? unread.at(language) : "?");
}

TEST_CASE("docs: commands in sentences and tables name what exists") {
  static const std::regex span("`([^`]+)`");
  Help help;
  int commands = 0;
  const auto look = [&](const std::string& where, const std::string& text) {
    std::istringstream several(text);
    for (std::string command; std::getline(several, command, ';');) {
      command = docs::trimmed(command);
      if (!is_flare(command)) continue;
      ++commands;
      const std::string error = usage_error(command, help);
      CHECK_MESSAGE(error.empty(), where, ": `", command, "`: ", error);
    }
  };
  for (const Page& page : docs::pages()) {
    // A span may go on in the next line, so a paragraph is read as a whole.
    for (size_t i = 0; i < page.prose.size(); ++i) {
      const int first = page.prose[i].number;
      std::string paragraph = page.prose[i].text;
      while (i + 1 < page.prose.size() && !page.prose[i + 1].text.empty() && page.prose[i + 1].number == page.prose[i].number + 1)
        paragraph += cat(" ", docs::trimmed(page.prose[++i].text));
      for (std::sregex_iterator at(paragraph.begin(), paragraph.end(), span), end; at != end; ++at)
        look(cat(page.name, ":", first), (*at)[1]);
    }
    for (const Block& block : page.blocks)
      for (size_t i = 0; i < block.lines.size(); ++i)
        if (block.language.empty() || block.language == "sh")
          look(cat(page.name, ":", block.line + 1 + static_cast<int>(i)), block.lines[i]);
  }
  fmt::print("docs: {} commands compared with the help pages\n", commands);
  CHECK(commands >= 20);
}

TEST_CASE("docs: links lead to files and headings") {
  static const std::regex link(R"re(\]\(([^)#:\s]*)(?:#([^)\s]*))?\))re");
  std::map<std::string, Page> by_name;
  for (const Page& page : docs::pages()) by_name[page.name] = page;
  int links = 0;
  for (const auto& [name, page] : by_name) {
    for (const docs::Line& line : page.prose) {
      for (std::sregex_iterator at(line.text.begin(), line.text.end(), link), end; at != end; ++at) {
        const std::string target = (*at)[1], anchor = (*at)[2];
        const fs::path path = target.empty() ? fs::path(name) : (fs::path(name).parent_path() / target).lexically_normal();
        ++links;
        if (!fs::exists(fs::path(kSourceDir) / path)) {
          FAIL_CHECK(name, ":", line.number, ": links to ", target, ", which does not exist");
          continue;
        }
        const auto linked = by_name.find(path.generic_string());
        if (anchor.empty() || linked == by_name.end()) continue;
        CHECK_MESSAGE(anchors_of(linked->second).contains(anchor), name, ":", line.number, ": ", path.generic_string(),
                      " has no heading #", anchor);
      }
    }
  }
  CHECK(links > 40);
}
