#!/usr/bin/env bash
# Installs what is missing, builds, runs every test. Usage: bash tools/test.sh [--sanitize] [cmake options, e.g. -DFLARE_CUDA=OFF]
#   --sanitize   build with AddressSanitizer and UndefinedBehaviorSanitizer, without CUDA, in build-asan
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
folder=build
options=()
for option in "$@"; do
  case $option in
    --sanitize) folder=build-asan; options+=(-DFLARE_SANITIZE=ON -DFLARE_CUDA=OFF) ;;
    -D*) options+=("$option") ;;
    *) setup_fail "unknown option $option; usage: bash tools/test.sh [--sanitize] [-D<cmake variable>=<value> ...]" ;;
  esac
done

setup_install "${options[@]}"
setup_build "$folder" all "${options[@]}"

setup_say "running the tests"
cd "$flare_root/$folder"
status=0
ctest --output-on-failure --no-tests=error -j2 2>&1 | tee ctest.log || status=$?

# Tests count what they could not run here, for want of a GPU for one; CTest hides what a passing test prints.
setup_say "what ran and what was skipped, as the tests counted it"
awk '/ cases ran, [0-9]+ skipped/ { shown = 1; print; next } shown && /^    / { print; next } { shown = 0 }' Testing/Temporary/LastTest.log
[[ $status == 0 ]] || setup_fail "tests failed; all of their output: $flare_root/$folder/Testing/Temporary/LastTest.log"
setup_say "all tests passed; $((SECONDS / 60)) min $((SECONDS % 60)) s in all"
