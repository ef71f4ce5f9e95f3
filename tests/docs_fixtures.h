#pragma once
/// What the tests of the documentation share: every page of README.md and docs/, cut into fenced blocks and the text around them.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "tests/paths.h"

namespace docs {

namespace fs = std::filesystem;

/// A fenced block. `note` is what an HTML comment in the line before the fence says: <!-- quote core/tensor.h -->.
struct Block {
  std::string page, language, note;
  int line = 0;  // of the fence
  std::vector<std::string> lines;
  std::string where() const { return page + ":" + std::to_string(line); }
  std::string text() const {
    std::string all;
    for (const std::string& l : lines) all += l + "\n";
    return all;
  }
  /// What follows `word` in the note, if the note begins with it.
  std::optional<std::string> note_after(const std::string& word) const {
    if (note == word) return "";
    if (note.starts_with(word + " ")) return note.substr(word.size() + 1);
    return std::nullopt;
  }
};

struct Line {
  int number = 0;
  std::string text;
};

struct Page {
  std::string name;  // from the root of the tree
  std::vector<Block> blocks;
  std::vector<Line> prose;  // the lines outside of blocks
};

inline std::string trimmed(const std::string& s) {
  const size_t first = s.find_first_not_of(" \t\r");
  return first == std::string::npos ? "" : s.substr(first, s.find_last_not_of(" \t\r") - first + 1);
}

inline std::vector<std::string> lines_of(const fs::path& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file.good(), path.string(), " cannot be read");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

inline Page parse_page(const std::string& name, const std::vector<std::string>& lines) {
  Page page{name, {}, {}};
  for (size_t i = 0; i < lines.size(); ++i) {
    if (!lines[i].starts_with("```")) {
      page.prose.push_back({static_cast<int>(i) + 1, lines[i]});
      continue;
    }
    Block block;
    block.page = name;
    block.line = static_cast<int>(i) + 1;
    block.language = trimmed(lines[i].substr(3));
    const std::string before = i > 0 ? trimmed(lines[i - 1]) : "";
    if (before.starts_with("<!--") && before.ends_with("-->")) block.note = trimmed(before.substr(4, before.size() - 7));
    for (++i; i < lines.size() && trimmed(lines[i]) != "```"; ++i) block.lines.push_back(lines[i]);
    REQUIRE_MESSAGE(i < lines.size(), block.where(), ": this block has no end");
    page.blocks.push_back(block);
  }
  return page;
}

/// README.md, then docs/**/*.md in the order of their names: a new page needs no entry anywhere.
inline std::vector<Page> pages() {
  const fs::path root = kSourceDir;
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs"))
    if (entry.is_regular_file() && entry.path().extension() == ".md")
      names.push_back(fs::relative(entry.path(), root).generic_string());
  std::sort(names.begin(), names.end());
  names.insert(names.begin(), "README.md");
  std::vector<Page> all;
  for (const std::string& name : names) all.push_back(parse_page(name, lines_of(root / name)));
  return all;
}

}  // namespace docs
