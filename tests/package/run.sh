#!/usr/bin/env bash
# The installed library as another project meets it: installs the built tree into a scratch folder, builds examples/ with nothing but
# that, runs the three programs, then moves the installation and does it again.
#   usage: tests/package/run.sh <build folder> [cmake]      CXX and CMAKE_PREFIX_PATH are passed on
set -euo pipefail
build=$(realpath "$1")
cmake=${2:-cmake}
source=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
# The build tool that is here: a machine made ready by tools/setup.sh has Ninja and no make, CMake's default.
CMAKE_GENERATOR=$(sed -n 's/^CMAKE_GENERATOR:INTERNAL=//p' "$build/CMakeCache.txt")
export CMAKE_GENERATOR
scratch=$(mktemp -d "${TMPDIR:-/tmp}/flare-package-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
say() { printf '== %s\n' "$*"; }
fail() { printf 'package test: %s\n' "$*" >&2; exit 1; }
quietly() {  # quietly <command>...: its output is shown when it fails
  "$@" >"$scratch/log" 2>&1 </dev/null || { cat "$scratch/log" >&2; fail "failed: $*"; }
}
# Libraries that were brought along in the clone (tools/setup.sh --bundle) are the only thing in it that others may see.
tree_paths() { grep -rIoE "(${source}|${build})[^\" ;,:]*" "$@" | grep -vF "$source/.deps" || true; }

prefix=$scratch/first
say "installing into a scratch folder"
quietly "$cmake" --install "$build" --prefix "$prefix"
for file in bin/flare lib*/libflare.so lib*/cmake/flare/flareConfigVersion.cmake lib*/pkgconfig/flare.pc include/flare/core/tensor.h \
            include/flare/core/launch.cuh share/flare/configs/lra/listops.json share/doc/flare/LICENSE; do
  compgen -G "$prefix/$file" >/dev/null || compgen -G "$prefix/${file/lib\*/lib/*}" >/dev/null || fail "$file was not installed"
done
[[ ! -e $prefix/include/flare/tools/cli ]] || fail "headers of the program were installed"
found=$(grep -rnE '#[ ]*include "(core|autograd|ops|nn|datasets|tools)/' "$prefix/include" || true)
[[ -z $found ]] || fail "installed headers include by the tree's paths: $found"
found=$(tree_paths "$prefix")
[[ -z $found ]] || fail "installed text files name the source or build tree: $found"
if command -v readelf >/dev/null; then
  for file in "$prefix/bin/flare" $(find "$prefix" -name 'libflare.so' -type l); do
    found=$(readelf -d "$file" | grep -E 'R(UN)?PATH' | grep -F -e "$build" -e "$source" | grep -vF "$source/.deps" || true)
    [[ -z $found ]] || fail "$file looks for libraries in the source or build tree: $found"
  done
fi

say "training with the installed program"
cd "$scratch"
flare=$prefix/bin/flare
quietly "$flare" data generate darcy-gen --train 16 --val 4 --test 4 --set resolution=17 --set stride=2 --out data/darcy
quietly "$flare" train "$prefix/share/flare/configs/pde/darcy-gen.json" --run runs/darcy --device cpu --set task.data=data/darcy \
  --set model.blocks=1 --set model.channels=16 --set model.heads=2 --set model.latents=8 --set model.kv_layers=1 \
  --set model.ffn_layers=1 --set train.steps=20 --set train.eval_every=10 --set train.checkpoint_every=10
quietly "$flare" predict runs/darcy --input data/darcy/test.x.npy --output expected.npy

cp -r "$source/examples" user
use_package() {  # use_package <prefix>: builds the examples with the package there, and runs them
  say "building the examples with the package in ${1##*/}"
  rm -rf made
  quietly "$cmake" -S user -B made -DCMAKE_PREFIX_PATH="$1${CMAKE_PREFIX_PATH:+;${CMAKE_PREFIX_PATH//:/;}}" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCMAKE_CXX_FLAGS="-Wall -Wextra ${CXXFLAGS:-}" -DCMAKE_CXX_FLAGS_RELEASE=-O1
  quietly "$cmake" --build made --parallel 2
  found=$(tree_paths made)
  [[ -z $found ]] || fail "the examples were built with the source or build tree: $found"
  say "running them"
  made/regression cpu | tail -n 1 || fail "regression"
  made/custom_op || fail "custom_op"
  made/predict runs/darcy data/darcy/test.x.npy predicted.npy || fail "predict"
  cmp expected.npy predicted.npy || fail "predict answers otherwise than the installed program"
}
use_package "$prefix"

# Each installed header must be complete by itself; nvcc's are for nvcc.
say "compiling every installed header"
(cd "$prefix/include" && find flare -name '*.h' | sort | sed 's/.*/#include <&>/') >user/headers.cpp
compile=$(sed -n 's/^ *"command": "\(.*\) -o .*regression.cpp",*$/\1/p' made/compile_commands.json | sed 's/\\"/"/g')
[[ -n $compile ]] || fail "no compile command for regression.cpp"
eval "quietly $compile -fsyntax-only user/headers.cpp"

# Neither libraries brought along nor a sanitizer are known to pkg-config.
if command -v pkg-config >/dev/null && [[ -z ${CMAKE_PREFIX_PATH:-} ]] && ! grep -q "^FLARE_SANITIZE:BOOL=ON" "$build/CMakeCache.txt"; then
  say "building with pkg-config"
  pc=$(dirname "$(find "$prefix" -name flare.pc)")
  # shellcheck disable=SC2046  # several options
  quietly "${CXX:-c++}" -std=c++20 ${CXXFLAGS:-} user/regression.cpp -o regression $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs flare)
  LD_LIBRARY_PATH=$prefix/lib:$(dirname "$pc") ./regression cpu | tail -n 1 || fail "regression, built with pkg-config"
fi

mv "$prefix" "$scratch/moved elsewhere"
use_package "$scratch/moved elsewhere"
"$scratch/moved elsewhere/bin/flare" info >/dev/null || fail "the program does not run where it was moved to"
say "passed in $SECONDS s"
