/// docs/library.md quotes the examples word for word. That they build against an installation and run is the test tests/package.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "core/file.h"
#include "tests/paths.h"

TEST_CASE("docs/library.md quotes examples/ word for word") {
  const std::string root = kSourceDir, page = flare::read_file(root + "/docs/library.md");
  std::string sources;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/examples"))
    sources += flare::read_file(entry.path().string());
  int blocks = 0;
  for (const std::string fence : {"```cpp\n", "```cmake\n"}) {
    for (size_t at = page.find(fence); at != std::string::npos; at = page.find(fence, at)) {
      at += fence.size();
      const size_t end = page.find("```", at);
      REQUIRE(end != std::string::npos);
      const std::string block = page.substr(at, end - at);
      CHECK_MESSAGE(sources.find(block) != std::string::npos, "no file of examples/ holds this block:\n", block);
      ++blocks;
    }
  }
  CHECK(blocks >= 9);
}
