/// launch_early's one condition, read off the source: the kernel waits with after_previous() for the work before it. A kernel that
/// does not would read half-written memory now and then, which no test of values reliably shows.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/paths.h"

namespace {

namespace fs = std::filesystem;

using Sources = std::map<std::string, std::string>;  // text by path from the root

std::string text_of(const fs::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return std::regex_replace(text.str(), std::regex("//[^\n]*"), "");
}
Sources device_sources() {
  Sources found;
  for (const char* folder : {"core", "autograd", "ops", "nn", "datasets", "examples", "docs"})
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(kSourceDir) / folder))
      if (entry.path().extension() == ".cu" || entry.path().extension() == ".cuh")
        found[fs::relative(entry.path(), kSourceDir).generic_string()] = text_of(entry.path());
  return found;
}

/// From the bracket at or after `at` to the one that closes it, or to the end.
std::string bracketed(const std::string& text, size_t at, char open, char close) {
  const size_t begin = text.find(open, at);
  int depth = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    if (text[i] == open) ++depth;
    if (text[i] == close && --depth == 0) return text.substr(begin, i - begin + 1);
  }
  return begin == std::string::npos ? "" : text.substr(begin);
}
std::set<std::string> words(const std::string& text, const std::regex& of) {
  return {std::sregex_token_iterator(text.begin(), text.end(), of), std::sregex_token_iterator()};
}

/// The file and all that it includes, as far as they are among the sources.
std::set<std::string> with_included(const Sources& sources, const std::string& file) {
  static const std::regex include("#include \"([^\"]+)\"");
  std::set<std::string> seen;
  std::vector<std::string> open{file};
  while (!open.empty()) {
    const std::string next = open.back();
    open.pop_back();
    const auto source = sources.find(next);
    if (source == sources.end() || !seen.insert(next).second) continue;
    for (std::sregex_iterator at(source->second.begin(), source->second.end(), include), end; at != end; ++at)
      open.push_back((*at)[1]);
  }
  return seen;
}

/// Whether the body of a function waits, itself or in a function of the same file that it calls.
bool waits(const std::string& text, const std::string& body, int depth = 2) {
  if (body.find("after_previous()") != std::string::npos) return true;
  if (depth == 0) return false;
  static const std::regex called("[a-z_0-9]+_block(?=[<(])");
  for (const std::string& name : words(body, called)) {
    std::smatch definition;
    if (std::regex_search(text, definition, std::regex("\\b" + name + R"(\([^()]*\)\s*\{)")) &&
        waits(text, bracketed(text, static_cast<size_t>(definition.position()) + name.size(), '{', '}'), depth - 1))
      return true;
  }
  return false;
}

/// What is wrong, a line each; `n_calls` counts the calls of launch_early that were looked at.
std::vector<std::string> early_launch_errors(const Sources& sources, int& n_calls) {
  static const std::regex kernel(R"(\b[a-z_0-9]+_kernel\b)");
  std::vector<std::string> errors;
  n_calls = 0;
  for (const auto& [file, text] : sources) {
    if (file == "core/launch.cuh") continue;
    const std::set<std::string> reachable = with_included(sources, file);
    for (size_t at = text.find("launch_early("); at != std::string::npos; at = text.find("launch_early(", at + 1)) {
      ++n_calls;
      std::set<std::string> names = words(bracketed(text, at, '(', ')'), kernel);
      if (names.empty())
        names = words(text.substr(at - std::min<size_t>(at, 600), std::min<size_t>(at, 600)), kernel);  // a variable
      if (names.empty()) errors.push_back(file + ": launch_early of a kernel that this test cannot name");
      for (const std::string& name : names) {
        const std::regex definition("__global__[^{};]*\\b" + name + "\\(");
        bool is_defined = false;
        for (const std::string& other : reachable) {
          const std::string& there = sources.at(other);
          std::smatch match;
          if (!std::regex_search(there, match, definition)) continue;
          is_defined = true;
          const auto end = static_cast<size_t>(match.position() + match.length());
          const size_t after = there.find('{', end);
          if (!waits(there, bracketed(there, after, '{', '}')))
            errors.push_back(other + ": " + name + " does not wait with after_previous(), but " + file + " launches it early");
        }
        if (!is_defined) errors.push_back(file + ": " + name + " is not defined in what it includes");
      }
    }
  }
  return errors;
}

}  // namespace

TEST_CASE("launches: every kernel that is launched early waits for what came before") {
  int n_calls = 0;
  for (const std::string& error : early_launch_errors(device_sources(), n_calls)) FAIL_CHECK(error);
  CHECK(n_calls >= 30);
}

TEST_CASE("launches: a kernel that does not wait is found") {
  const std::string good =
      "__global__ void a_kernel(int x) {\n  after_previous();\n}\nvoid f() { launch_early(\"a\", a_kernel, s); }";
  const std::string inside =
      "__device__ void a_block(int x) { if (x) { after_previous(); } }\n__global__ void a_kernel(int x) { a_block(x); }\n"
      "void f() { launch_early(\"a\", a_kernel, s); }";
  const std::string bad = "__global__ void a_kernel(int x) {\n  x = 1;\n}\nvoid f() { launch_early(\"a\", a_kernel, s); }";
  const std::string plain = "__global__ void a_kernel(int x) {\n  x = 1;\n}\nvoid f() { launch(\"a\", a_kernel, s); }";
  int n = 0;
  CHECK(early_launch_errors({{"ops/a.cu", good}}, n).empty());
  CHECK(n == 1);
  CHECK(early_launch_errors({{"ops/a.cu", inside}}, n).empty());
  CHECK(early_launch_errors({{"ops/a.cu", plain}}, n).empty());
  CHECK(early_launch_errors({{"ops/a.cu", bad}}, n).size() == 1);
  // The definition counts that the launching file includes, not another of the same name.
  CHECK(early_launch_errors({{"ops/a.cu", "#include \"ops/b.cuh\"\nvoid f() { launch_early(\"a\", a_kernel, s); }"},
                             {"ops/b.cuh", "__global__ void a_kernel(int x) { after_previous(); }"},
                             {"ops/c.cuh", "__global__ void a_kernel(int x) { x = 1; }"}},
                            n)
            .empty());
}
