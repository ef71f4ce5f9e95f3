#pragma once
/// Real benchmark data for tests, where it is at hand.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/file.h"
#include "tests/paths.h"

/// The folder of real data `name`: in $FLARE_TEST_DATA, or in shared/data in or beside the source tree. Empty, after saying that
/// the test is skipped, where there is none.
inline std::string data_folder(const std::string& name) {
  const char* given = std::getenv("FLARE_TEST_DATA");
  const std::string root = kSourceDir;
  for (const std::string& base : {given ? std::string(given) : std::string(), root + "/shared/data", root + "/../shared/data"})
    if (!base.empty() && flare::directory_exists(base + "/" + name)) return base + "/" + name;
  std::printf("skipped: the real data %s is not at hand (FLARE_TEST_DATA names its folder)\n", name.c_str());
  return "";
}
