#pragma once
/// Where the tests find the tree and the program. Only tests/main.cpp is compiled with the paths, so that a clone at another place
/// compiles the same tests.
extern const char* const kSourceDir;  // the root of the source tree
extern const char* const kProgram;    // the flare program
