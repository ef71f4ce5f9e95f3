#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "tests/paths.h"

const char* const kSourceDir = FLARE_SOURCE_DIR;
const char* const kProgram = FLARE_PROGRAM;
