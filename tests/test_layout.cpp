/// The shape of the source tree: which folder may include which, how long a file may be, and whether the README's account of it is
/// still true.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
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

const fs::path kRoot = kSourceDir;
constexpr int kMaxLines = 500;

/// What each folder may include:  core <- autograd <- ops <- nn <- tools  and  core <- datasets <- tools.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"core", {"core"}},
    {"autograd", {"core", "autograd"}},
    {"ops", {"core", "autograd", "ops"}},
    {"nn", {"core", "autograd", "ops", "nn"}},
    {"datasets", {"core", "datasets"}},
    {"tools", {"core", "autograd", "ops", "nn", "datasets", "tools"}},
    {"docs", {"core", "autograd", "ops", "nn", "datasets", "docs", "tests"}},
    {"tests", {"core", "autograd", "ops", "nn", "datasets", "tools", "tests", "docs"}},
};

std::string first_folder(const std::string& path) { return path.substr(0, path.find('/')); }

/// What is wrong with `file` including `included`; empty when nothing is. Paths are relative to the root; system headers keep
/// their angle brackets.
std::string include_error(const std::string& file, const std::string& included) {
  const fs::path name = file;
  const bool is_device = name.extension() == ".cuh" || name.extension() == ".cu";
  if (included.starts_with('<')) {
    if (is_device && (included.starts_with("<fmt/") || included.starts_with("<nlohmann/")))
      return file + " includes " + included + ", which nvcc should not have to compile";
    return "";
  }
  if (included.find('/') == std::string::npos)
    return file + " includes " + included + ": name it by its path from the root of the tree";
  const auto rule = kMayInclude.find(first_folder(file));
  if (rule == kMayInclude.end()) return file + " lies in a folder without a rule";
  const std::string target = first_folder(included);
  if (!rule->second.contains(target)) return file + " includes " + included + ": " + rule->first + " may not depend on " + target;
  if (name.extension() == ".cuh" && target != "core" && target != "ops")
    return file + " includes " + included + ": device headers know core and ops only";
  if (name.extension() != ".cu" && name.extension() != ".cuh" && fs::path(included).extension() == ".cuh")
    return file + " includes " + included + ": only .cu and .cuh files may include device code";
  return "";
}

std::vector<std::string> lines_of(const fs::path& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file.good(), path.string(), " cannot be read");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// "core/tensor.h" or "<vector>" for an #include line, else empty.
std::string included_by(const std::string& line) {
  static const std::regex pattern(R"re(^\s*#\s*include\s*(?:"([^"]+)"|(<[^>]+>)))re");
  std::smatch match;
  if (!std::regex_search(line, match, pattern)) return "";
  return match[1].matched ? match[1].str() : match[2].str();
}

/// Source files of the folders above, relative to the root.
std::vector<std::string> source_files() {
  static const std::set<std::string> extensions = {".h", ".cpp", ".cu", ".cuh"};
  std::vector<std::string> files;
  for (const auto& [folder, allowed] : kMayInclude)
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder))
      if (entry.is_regular_file() && extensions.contains(entry.path().extension().string()))
        files.push_back(fs::relative(entry.path(), kRoot).generic_string());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("the rules catch what they forbid") {
  CHECK(include_error("core/tensor.h", "ops/linear.h") == "core/tensor.h includes ops/linear.h: core may not depend on ops");
  CHECK_FALSE(include_error("autograd/op.h", "ops/pointwise.h").empty());
  CHECK_FALSE(include_error("nn/flare.h", "datasets/loader.h").empty());
  CHECK_FALSE(include_error("datasets/loader.h", "nn/module.h").empty());
  CHECK_FALSE(include_error("datasets/loader.h", "autograd/node.h").empty());
  CHECK_FALSE(include_error("ops/softmax.cu", "tools/train/task.h").empty());
  CHECK_FALSE(include_error("ops/kernels/warp.cuh", "autograd/op.h").empty());
  CHECK_FALSE(include_error("ops/shaping.cpp", "ops/kernels/warp.cuh").empty());
  CHECK_FALSE(include_error("ops/softmax.cu", "<fmt/core.h>").empty());
  CHECK_FALSE(include_error("tests/test_nn.cpp", "golden.h").empty());
  CHECK_FALSE(include_error("elsewhere/x.h", "core/shape.h").empty());
  CHECK(include_error("ops/softmax.cu", "ops/kernels/warp.cuh").empty());
  CHECK(include_error("nn/flare.h", "<vector>").empty());
  CHECK(included_by("#include \"core/shape.h\"") == "core/shape.h");
  CHECK(included_by("  # include <vector>  // std::vector") == "<vector>");
  CHECK(included_by("// #include \"core/shape.h\"").empty());
}

TEST_CASE("includes point downward and lead to files") {
  int includes = 0;
  for (const std::string& file : source_files()) {
    for (const std::string& line : lines_of(kRoot / file)) {
      const std::string included = included_by(line);
      if (included.empty()) continue;
      const std::string error = include_error(file, included);
      CHECK_MESSAGE(error.empty(), error);
      if (!included.starts_with('<'))
        CHECK_MESSAGE(fs::exists(kRoot / included), file, " includes ", included, ", which does not exist");
      ++includes;
    }
  }
  CHECK(includes > 300);
}

TEST_CASE("files are short enough to read") {
  for (const std::string& file : source_files()) {
    const auto n = static_cast<int>(lines_of(kRoot / file).size());
    CHECK_MESSAGE(n <= kMaxLines, file, " has ", n, " lines; split it by subject (at most ", kMaxLines, ")");
  }
}

TEST_CASE("the README's reading order names files that exist, with about their length") {
  // A row is "| 1 | [path](path) | lines | ... |". Within a fifth: the table guides a reader, and adding an op must not edit it.
  static const std::regex row(R"re(^\| *\d+ *\| *\[([^\]]+)\]\(([^)]+)\) *\| *(\d+) *\|)re");
  int rows = 0;
  for (const std::string& line : lines_of(kRoot / "README.md")) {
    std::smatch match;
    if (!std::regex_search(line, match, row)) continue;
    ++rows;
    CHECK(match[1] == match[2]);
    const fs::path path = kRoot / match[2].str();
    REQUIRE_MESSAGE(fs::exists(path), "README.md lists ", match[2].str(), ", which does not exist");
    const double stated = std::stod(match[3]), counted = static_cast<double>(lines_of(path).size());
    CHECK_MESSAGE(std::abs(stated - counted) <= std::max(10.0, counted / 5), "README.md says ", match[2].str(), " has ", stated,
                  " lines; it has ", counted);
  }
  CHECK(rows >= 10);
}

TEST_CASE("links in the documentation lead to files") {
  static const std::regex link(R"re(\]\(([^)#:]+)(#[^)]*)?\))re");
  int links = 0;
  std::vector<std::string> pages = {"README.md", "examples/README.md"};
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / "docs"))
    if (entry.path().extension() == ".md") pages.push_back(fs::relative(entry.path(), kRoot).generic_string());
  for (const std::string& page : pages) {
    const fs::path folder = (kRoot / page).parent_path();
    bool in_code = false;
    for (const std::string& line : lines_of(kRoot / page)) {
      if (line.starts_with("```")) in_code = !in_code;
      if (in_code) continue;
      for (std::sregex_iterator at(line.begin(), line.end(), link), end; at != end; ++at) {
        const std::string target = (*at)[1];
        CHECK_MESSAGE(fs::exists(folder / target), page, " links to ", target, ", which does not exist");
        ++links;
      }
    }
  }
  CHECK(links > 20);
}
