#!/usr/bin/env bash
# What tools/quickstart.sh and tools/test.sh share: find what is missing, install it, configure, build. Run by itself it only
# installs; with --bundle it unpacks the libraries into .deps/usr instead, for a machine without network (copy the clone there).
# Nothing here touches the network when everything needed is present.

flare_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup_say() { printf '== %s\n' "$*"; }
setup_fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Libraries brought along by hand count like installed ones, and CMake searches where the compiler does.
if [[ -d $flare_root/.deps ]]; then
  export CMAKE_PREFIX_PATH="$flare_root/.deps/usr:$flare_root/.deps${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}"
  for setup_dir in "$flare_root"/.deps/usr/lib/*-linux-gnu "$flare_root/.deps/lib"; do
    if [[ -d $setup_dir ]]; then export LD_LIBRARY_PATH="$setup_dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"; fi
  done
fi
if [[ -n ${CPATH:-} ]]; then export CMAKE_INCLUDE_PATH="$CPATH${CMAKE_INCLUDE_PATH:+:$CMAKE_INCLUDE_PATH}"; fi
if [[ -n ${LIBRARY_PATH:-} ]]; then export CMAKE_LIBRARY_PATH="$LIBRARY_PATH${CMAKE_LIBRARY_PATH:+:$CMAKE_LIBRARY_PATH}"; fi

setup_libraries=(libcli11-dev libfmt-dev nlohmann-json3-dev doctest-dev librandom123-dev libopenblas-dev libeigen3-dev zlib1g-dev libpng-dev)
setup_optional=(libmatio-dev)  # installed along when something else is missing; a build without it cannot import .mat files

# setup_look <kind> <pattern>...: whether a header (kind include) or a library (kind lib) lies where CMake and the compiler look.
setup_look() {
  local kind=$1 prefix dir pattern
  shift
  local -a prefixes dirs extra
  IFS=':;' read -r -a prefixes <<<"${CMAKE_PREFIX_PATH:-}:/usr/local:/usr"
  if [[ $kind == include ]]; then
    IFS=':;' read -r -a extra <<<"${CMAKE_INCLUDE_PATH:-}"
  else
    IFS=':;' read -r -a extra <<<"${CMAKE_LIBRARY_PATH:-}"
  fi
  dirs=("${extra[@]}")
  for prefix in "${prefixes[@]}"; do
    [[ -n $prefix ]] && dirs+=("$prefix/$kind" "$prefix/${kind}64")
  done
  for dir in "${dirs[@]}"; do
    [[ -n $dir ]] || continue
    for pattern in "$@"; do
      if compgen -G "$dir/$pattern" >/dev/null || compgen -G "$dir/*-linux-gnu*/$pattern" >/dev/null; then return 0; fi
    done
  done
  return 1
}

setup_has_library() {
  case $1 in
    libcli11-dev) setup_look include CLI/CLI.hpp ;;
    libfmt-dev) setup_look include fmt/core.h ;;
    nlohmann-json3-dev) setup_look include nlohmann/json.hpp ;;
    doctest-dev) setup_look include doctest/doctest.h ;;
    librandom123-dev) setup_look include Random123/philox.h ;;
    libeigen3-dev) setup_look include Eigen/SparseCholesky eigen3/Eigen/SparseCholesky ;;
    zlib1g-dev) setup_look include zlib.h && setup_look lib libz.so libz.a ;;
    libmatio-dev) setup_look include matio.h && setup_look lib libmatio.so ;;
    libopenblas-dev) setup_look include cblas.h openblas/cblas.h openblas-pthread/cblas.h && setup_look lib libopenblas.so openblas-pthread/libopenblas.so ;;
    libpng-dev) setup_look include png.h && setup_look lib libpng.so ;;
  esac
}

# Prints the Debian packages that are missing, one a line.
setup_missing() {
  local package
  command -v "${CXX:-g++}" >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || command -v make >/dev/null || echo ninja-build
  for package in "${setup_libraries[@]}"; do setup_has_library "$package" || echo "$package"; done
}

# setup_apt <apt-get arguments>: as root or through sudo; its output is shown when it fails.
setup_apt() {
  local -a as_root=()
  local log status=0
  if [[ $(id -u) != 0 ]]; then as_root=(sudo); fi
  log=$(mktemp)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null || status=$?
  if [[ $status != 0 ]]; then tail -n 15 "$log" >&2; fi
  rm -f "$log"
  return "$status"
}

# setup_install [cmake options]
setup_install() {
  local missing option  # package names, separated by blanks
  for option in "$@"; do
    if [[ $option == -DCMAKE_PREFIX_PATH=* ]]; then export CMAKE_PREFIX_PATH="${option#*=}${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}"; fi
  done
  missing=$(setup_missing | xargs)
  if [[ -z $missing ]]; then
    setup_say "compiler, build tools and libraries are present: nothing to install"
    for package in "${setup_optional[@]}"; do setup_has_library "$package" || setup_say "without $package, which is optional"; done
  else
    command -v apt-get >/dev/null || setup_fail "install what these Debian packages hold, then run this again: $missing"
    [[ $(id -u) == 0 ]] || command -v sudo >/dev/null || setup_fail "not root and no sudo: have an administrator run: apt-get install $missing"
    setup_say "installing with apt-get: $missing"
    setup_apt update || setup_say "apt-get update failed; trying with the package lists at hand"
    # shellcheck disable=SC2086  # one argument a package
    setup_apt install -y --no-install-recommends $missing "${setup_optional[@]}" ||
      setup_apt install -y --no-install-recommends $missing || setup_fail "apt-get could not install: $missing"
    missing=$(setup_missing | xargs)
    [[ -z $missing ]] || setup_fail "still missing after the installation: $missing"
  fi
  local version
  version=$("${CXX:-g++}" -dumpversion)
  if "${CXX:-g++}" --version | grep -qi clang; then version=11; fi  # clang numbers its versions differently
  [[ ${version%%.*} -ge 11 ]] || setup_fail "${CXX:-g++} is version $version; C++20 needs g++ 11 or newer (set CXX to choose another)"
  version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
  [[ $(printf '%s\n' 3.25 "$version" | sort -V | head -n 1) == 3.25 ]] || setup_fail "cmake is version $version; 3.25 or newer is needed"
}

# setup_build <folder> <target> [cmake options]: configures the folder where needed, then builds the target.
setup_build() {
  local folder=$flare_root/$1 target=$2 nvcc version jobs memory
  shift 2
  local -a options=("$@")
  if [[ " $* " != *" -DFLARE_CUDA="* ]]; then
    nvcc=$(command -v nvcc || true)
    if [[ -z $nvcc && -x /usr/local/cuda/bin/nvcc ]]; then nvcc=/usr/local/cuda/bin/nvcc; fi
    if [[ -n $nvcc ]]; then
      version=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\.[0-9]*\).*/\1/p')
      if [[ ${version%%.*} -ge 12 ]]; then
        setup_say "nvcc $version found: the CUDA code is built too (-DFLARE_CUDA=OFF leaves it out)"
      else
        setup_say "nvcc $version is older than 12.0 and does not know C++20: building for the CPU only"
        options+=(-DFLARE_CUDA=OFF)
      fi
    else
      setup_say "no nvcc: building for the CPU only"
    fi
  fi
  if [[ -f $folder/CMakeCache.txt ]]; then
    # A clone that was moved or copied brings a cache that points elsewhere.
    grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$flare_root" "$folder/CMakeCache.txt" || options+=(--fresh)
  elif command -v ninja >/dev/null; then
    options+=(-G Ninja)
  fi
  setup_say "configuring ${folder#"$flare_root"/}"
  mkdir -p "$folder"
  if ! cmake -S "$flare_root" -B "$folder" "${options[@]}" >"$folder/configure.log" 2>&1; then
    tail -n 25 "$folder/configure.log" >&2
    setup_fail "cmake could not configure; all of its output: $folder/configure.log"
  fi
  # One compiler a core, and 1.5 GiB of memory for each.
  jobs=$(nproc)
  memory=$(awk '/^MemTotal:/ { print int($2 / 1572864) }' /proc/meminfo 2>/dev/null || true)
  if [[ -n $memory && $memory -lt $jobs ]]; then jobs=$((memory > 0 ? memory : 1)); fi
  setup_say "building $target with $jobs jobs"
  cmake --build "$folder" --target "$target" --parallel "$jobs" || setup_fail "the build failed; the compiler's message is above"
}

# Unpacks the libraries, without installing them, into .deps/usr.
setup_bundle() {
  local deps=$flare_root/.deps dir
  command -v apt-get >/dev/null || setup_fail "--bundle needs a Debian system"
  mkdir -p "$deps/packages"
  (cd "$deps/packages" && apt-get -q download "${setup_libraries[@]}" libfmt9 zlib1g libpng16-16 libopenblas-pthread-dev libopenblas0-pthread libgfortran5 libquadmath0) ||
    setup_fail "apt-get could not download the libraries; try apt-get update"
  for package in "$deps"/packages/*.deb; do dpkg -x "$package" "$deps"; done
  rm -rf "$deps/packages"
  find "$deps" -name '*.a' -delete
  rm -rf "$deps/usr/share/doc"
  for dir in "$deps"/usr/lib/*-linux-gnu; do
    ln -sf openblas-pthread/libopenblas.so.0 "$dir/libopenblas.so"
    ln -sf openblas-pthread/libopenblas.so.0 "$dir/libopenblas.so.0"
    for library in "$deps"/lib/*-linux-gnu/libz.so.1 "$dir/libz.so.1"; do  # the -dev package links to /lib
      if [[ -e $library ]]; then cp -n "$(readlink -f "$library")" "$dir/libz.so.1.flare" && ln -sf libz.so.1.flare "$dir/libz.so"; fi
    done
  done
  setup_say "unpacked into .deps/usr: $(du -sh "$deps" | cut -f1)"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  case ${1:-} in
    '') setup_install ;;
    --bundle) setup_bundle ;;
    *) setup_fail "unknown option $1; usage: bash tools/setup.sh [--bundle]" ;;
  esac
fi
