#!/usr/bin/env bash
# A newcomer's evening: in a clone of the tree, train by the quickstart's recipe (shortened), read what the run left, change the
# recipe, interrupt and resume, predict and evaluate, then add the ops of docs/add_an_op.md from nothing but that page and run their
# automatic tests. Each step checks results. CTest runs this under the name newcomer.
# Usage: bash tests/newcomer.sh <build folder>    the folder must hold flare and flare_tests; only the new op is compiled
set -euo pipefail

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(cd "${1:?usage: bash tests/newcomer.sh <build folder>}" && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/flare_newcomer_XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'echo "newcomer: line $LINENO failed: $BASH_COMMAND" >&2' ERR
clone=$scratch/clone

step() { printf '== %s (%d s)\n' "$*" "$SECONDS"; }
fail() { printf 'newcomer: %s\n' "$*" >&2; exit 1; }
# quietly <command>: its output is shown when it fails.
quietly() { "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "exit code $? of: $*"; }; }
# number <file> <key>: the first number of that name in JSON.
number() { grep -o "\"$2\": *[-+0-9.eE]*" "$1" | head -n 1 | sed 's/.*: *//'; }
holds() { grep -q -- "$2" "$1" || fail "$1 does not hold: $2"; }
is_true() { awk "BEGIN { exit !($1) }" || fail "not true: $1"; }

[[ -x $build/flare && -x $build/flare_tests ]] || fail "$build holds no flare and flare_tests; build first"

# ---------------------------------------------------------------------------------------------------------------------- the tree
step "clone"
if git -C "$source_dir" rev-parse --git-dir >/dev/null 2>&1 && git clone -q "$source_dir" "$clone" 2>/dev/null; then
  # What is not committed yet is tested too; what was deleted is not.
  (cd "$source_dir" && git ls-files -z -m -o --exclude-standard) |
    while IFS= read -r -d '' file; do
      if [[ -f $source_dir/$file ]]; then
        mkdir -p "$clone/$(dirname "$file")" && cp -p "$source_dir/$file" "$clone/$file"
      else
        rm -rf "${clone:?}/$file"
      fi
    done
else
  mkdir -p "$clone"
  (cd "$source_dir" && find . -mindepth 1 -maxdepth 1 ! -name 'build*' ! -name .git ! -name data ! -name runs -exec cp -Rp {} "$clone" \;)
fi
mkdir -p "$clone/build"
ln -sf "$build/flare" "$clone/build/flare"
cd "$clone"
[[ -f README.md && -f docs/add_an_op.md && -f tools/quickstart.sh ]] || fail "the clone lacks README.md, docs/add_an_op.md or tools/quickstart.sh"

# ------------------------------------------------------------------------------------------------------------------------- train
recipe=tools/configs/lra/listops-mini.json
holds tools/quickstart.sh "recipe=$recipe"
step "generate data as $recipe says, fewer samples"
read -r -a generate <<<"$(sed -n 's/.*"generate": *"\([^"]*\)".*/\1/p' "$recipe" |
  sed 's/--train [0-9]*/--train 2000/; s/--val [0-9]*/--val 100/; s/--test [0-9]*/--test 100/')"
data=$(sed -n 's/.*"data": *"\([^"]*\)".*/\1/p' "$recipe")
quietly build/flare data generate "${generate[@]}" --out "$data"
build/flare data show "$data" --verify >"$scratch/shown"
holds "$scratch/shown" "checksums agree"

step "train"
short=(--set train.steps=120 --set train.log_every=10 --set train.eval_every=60 --set train.checkpoint_every=30 --set optim.lr=3e-3)
quietly build/flare train "$recipe" --device cpu --run runs/first "${short[@]}"
for file in config.json metrics.jsonl log.txt report.html eval-test.json checkpoints/best/model.safetensors checkpoints/last/trainer.safetensors; do
  [[ -s runs/first/$file ]] || fail "runs/first/$file is missing or empty"
done
[[ $(grep -c '"split": *"train"' runs/first/metrics.jsonl) == 12 ]] || fail "runs/first/metrics.jsonl should hold 12 lines of training"
grep '"split": *"train"' runs/first/metrics.jsonl | sed -n 's/.*"loss": *\([-+0-9.eE]*\).*/\1/p' >"$scratch/losses"
is_true "$(tail -n 1 "$scratch/losses") < $(head -n 1 "$scratch/losses")"
[[ $(number runs/first/eval-test.json n_samples) == 100 ]] || fail "eval-test.json should count 100 samples"
accuracy=$(number runs/first/eval-test.json accuracy)
is_true "$accuracy >= 0 && $accuracy <= 1"

step "the report"
holds runs/first/report.html "<svg"
if grep -qiE '(src|href)="(https?:)?//' runs/first/report.html; then fail "report.html loads something from elsewhere"; fi
grep -qi accuracy runs/first/report.html || fail "report.html does not speak of accuracy"

step "evaluate: the same accuracy again"
build/flare eval runs/first --device cpu --json >"$scratch/evaluated" 2>"$scratch/log" || { cat "$scratch/log" >&2; fail "flare eval"; }
[[ $(number "$scratch/evaluated" accuracy) == "$accuracy" ]] || fail "flare eval says $(number "$scratch/evaluated" accuracy), training said $accuracy"

step "change the recipe by --set"
quietly build/flare train "$recipe" --device cpu --run runs/second --set train.steps=4 --set model.latents=8 --set optim.lr=5e-4
[[ $(number runs/second/config.json latents) == 8 ]] || fail "runs/second/config.json does not record model.latents"
is_true "$(number runs/second/config.json lr) == 0.0005"
status=0
build/flare train "$recipe" --set optim.lrr=1 2>"$scratch/log" || status=$?
[[ $status == 2 ]] || fail "a mistyped key should exit with 2, not $status"
holds "$scratch/log" "optim.lr"

step "interrupt and resume: the same weights as without"
build/flare train "$recipe" --device cpu --run runs/third "${short[@]}" >/dev/null 2>&1 &
training=$!
for _ in $(seq 2400); do
  if [[ -f runs/third/metrics.jsonl && $(wc -l <runs/third/metrics.jsonl) -ge 3 ]]; then break; fi
  sleep 0.05
done
kill -TERM "$training" 2>/dev/null || true
status=0
wait "$training" || status=$?
# A fast machine may have finished; then nothing was interrupted and the comparison says less.
[[ $status == 130 || $status == 0 ]] || fail "an interrupted training should exit with 130, not $status"
printf '   the interrupted training exited with %d\n' "$status"
if [[ $status == 130 ]]; then quietly build/flare train "$recipe" --device cpu --run runs/third --resume "${short[@]}"; fi
cmp runs/first/checkpoints/last/model.safetensors runs/third/checkpoints/last/model.safetensors ||
  fail "the resumed run ended with other weights"

# ----------------------------------------------------------------------------------------------------------------------- predict
step "predict on an array of one's own"
# The ids of [MAX 2 9 [MIN 4 7 ] 0 ], by the names in dataset.json.
sed -n '/"tokens": \[$/,/^  \]/p' "$data/dataset.json" | sed -n 's/^ *"\(.*\)",\{0,1\}$/\1/p' >"$scratch/names"
ids=()
for word in '[MAX' 2 9 '[MIN' 4 7 ']' 0 ']'; do
  id=$(grep -nxF -- "$word" "$scratch/names" | cut -d: -f1 || true)
  [[ -n $id ]] || fail "dataset.json has no token $word"
  ids+=($((id - 1)))
done
# Two rows of nine i64 each; the header of NumPy's format is 10 bytes and a dictionary padded to 118.
{
  printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "{'descr': '<i8', 'fortran_order': False, 'shape': (2, ${#ids[@]}), }"
  for _ in 1 2; do for id in "${ids[@]}"; do printf "\\x$(printf %02x "$id")\0\0\0\0\0\0\0"; done; done
} >mine.npy
quietly build/flare predict runs/first --device cpu --input mine.npy --output logits.npy
head -c 128 logits.npy | grep -qa "(2, 10)" || fail "logits.npy should be [2, 10]"
# Equal up to rounding: some BLAS kernels take the rows at the edge of a block by other code.
tail -c 80 logits.npy | od -An -v -tf4 -w40 | awk 'NR == 1 { split($0, first) }
  NR == 2 { for (i = 1; i <= 10; ++i) { d = first[i] - $i; if (d > 1e-5 || d < -1e-5 || NF != 10) exit 1 } }
  END { if (NR != 2) exit 1 }' || fail "equal rows should have equal logits"
build/flare predict runs/first --input mine.npy 2>"$scratch/log" && fail "predict without --output should fail"
holds "$scratch/log" "--output"

# ------------------------------------------------------------------------------------------------------------------- a new op
page=docs/add_an_op.md
step "add the ops of $page, from its blocks"
rm docs/examples/cumsum.h docs/examples/cumsum.cu docs/examples/softplus.h
# blocks <file>: what the page shows of a file, in order.
blocks() { awk -v note="<!-- quote $1 -->" '$0 == note { wanted = 1; next } /^```/ { if (on) print ""; on = !on && wanted; if (!on) wanted = 0; next } on' "$page"; }
blocks docs/examples/cumsum.h >docs/examples/cumsum.h
blocks docs/examples/cumsum.cu >docs/examples/cumsum.cu
[[ $(wc -l <docs/examples/cumsum.cu) -gt 60 ]] || fail "$page shows no whole docs/examples/cumsum.cu"
# The struct goes before the list; then the page's diff: a line with - is replaced, one with a blank stays, + lines come after it. What
# … stands for is taken over.
blocks docs/examples/softplus.h >"$scratch/struct"
awk '/^```diff/ { on = 1; next } /^```/ { on = 0 } on' "$page" >"$scratch/diff"
awk -v struct="$scratch/struct" -v diff="$scratch/diff" '
  function found(line, key, at, front, back) {  # the line of the diff that this line of the file is; sets middle
    for (key in sign) {
      at = index(key, "…")
      if (!at) { if (line == key) return key; continue }
      front = substr(key, 1, at - 1); back = substr(key, at + length("…"))
      if (length(line) < length(front back) || index(line, front) != 1 || substr(line, length(line) - length(back) + 1) != back) continue
      middle = substr(line, length(front) + 1, length(line) - length(front back))
      return key
    }
    return ""
  }
  BEGIN {
    while ((getline line < diff) > 0) {
      text = substr(line, 2)
      if (substr(line, 1, 1) == "+") { more[last] = more[last] text "\n"; continue }
      last = text; sign[last] = substr(line, 1, 1); pending++
    }
  }
  /^using UnaryOps/ { while ((getline line < struct) > 0) print line }
  {
    key = found($0)
    if (key == "") { print; next }
    if (sign[key] == " ") print
    text = more[key]; at = index(text, "…")
    if (at) text = substr(text, 1, at - 1) middle substr(text, at + length("…"))
    printf "%s", text
    pending--
  }
  END { exit pending != 0 }' ops/pointwise.h >"$scratch/pointwise.h" || fail "the diff of $page does not fit ops/pointwise.h"
mv "$scratch/pointwise.h" ops/pointwise.h
holds ops/pointwise.h "struct Softplus"
holds ops/pointwise.h "Tensor softplus"

# The page's test by value, and what shows that the registry has met both ops.
{
  printf '#include <doctest/doctest.h>\n#include "autograd/op.h"\n#include "docs/examples/cumsum.h"\n#include "ops/pointwise.h"\nusing namespace flare;\n'
  blocks docs/examples/add_an_op.cpp
  printf 'TEST_CASE("newcomer: both ops are registered") {\n  CHECK(!find_op("cumsum").samples().empty());\n  CHECK(!find_op("softplus").samples().empty());\n'
  printf '  CHECK(softplus(Tensor::zeros({1}, DType::f64)).item() == doctest::Approx(0.6931471805599453));\n}\n'
} >tests/test_mine.cpp

# compile <file of the tree whose command serves> <file to compile>: with the command of the build, without optimisation.
compile() {
  local command object=$scratch/${2//\//_}.o
  command=$(awk -v file="\"file\": \"$source_dir/$1\"" '/"command":/ { command = $0 } index($0, file) { print command; exit }' "$build/compile_commands.json" |
    sed 's/^ *"command": "//; s/",\{0,1\}$//; s/\\"/"/g; s/\\\\/\\/g')
  [[ -n $command ]] || fail "$build/compile_commands.json does not say how $1 is compiled"
  command=${command//"-I$source_dir "/"-I$clone "}
  command=${command//"$source_dir/$1"/"$clone/$2"}
  command=$(sed "s# -O[0-9s]\( \|\$\)# -O0\1#g; s# -o [^ ]*# -o $object#" <<<"$command")
  [[ $command == *"-I$clone "* && $command == *"$clone/$2"* && $command == *"-o $object"* ]] || fail "not the command that was expected: $command"
  (cd "$build" && bash -c "$command") >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "$2 does not compile"; }
  printf '%s\n' "$object"
}
# link_command <target> <its file>: how the build links it.
link_command() {
  if [[ -f $build/build.ninja ]]; then
    "$(sed -n 's/^CMAKE_MAKE_PROGRAM:[A-Z]*=//p' "$build/CMakeCache.txt")" -C "$build" -t commands flare_tests | grep -- " -o $2" | tail -n 1
  else
    cat "$build/CMakeFiles/$1.dir/link.txt"
  fi
}
# link <program> <object>...: as flare_tests is linked, but with these, the general tests and the objects of the library without
# pointwise, in place of all tests and of the library.
link() {
  local program=$1 word
  shift
  local -a words=() library tests
  read -r -a library <<<"$(link_command libflare libflare.so)"
  read -r -a tests <<<"$(link_command flare_tests flare_tests)"
  [[ ${#library[@]} -gt 20 && ${#tests[@]} -gt 20 ]] || fail "$build does not say how flare_tests is linked"
  for word in "${tests[@]}"; do
    case $word in
      CMakeFiles/flare_tests.dir/tests/main.cpp.o | CMakeFiles/flare_tests.dir/tests/test_ops.cpp.o) words+=("$word") ;;
      CMakeFiles/flare_tests.dir/*) ;;
      libflare.so*)
        words+=("$@")
        for word in "${library[@]}"; do
          if [[ $word == *.o && $word != */ops/pointwise.cu.o ]]; then words+=("$word"); fi
        done
        ;;
      flare_tests) words+=("$program") ;;
      *) words+=("$word") ;;
    esac
  done
  (cd "$build" && bash -c "${words[*]}") >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "the new op does not link"; }
}

step "compile them"
pointwise=$(compile ops/pointwise.cu ops/pointwise.cu)
cumsum=$(compile docs/examples/cumsum.cu docs/examples/cumsum.cu)
mine=$(compile tests/test_autograd.cpp tests/test_mine.cpp)
link "$scratch/tests" "$pointwise" "$cumsum" "$mine"
step "their tests"
"$scratch/tests" >"$scratch/results" 2>&1 || { tail -n 40 "$scratch/results" >&2; fail "the tests of the new ops failed"; }
# More cases than without them: the general tests took the new ops in by themselves.
"$build/flare_tests" --source-file='*test_ops.cpp' >"$scratch/before" 2>&1 || { tail -n 40 "$scratch/before" >&2; fail "the tests of the ops failed"; }
cases() { sed -n 's/^derivatives: \([0-9]*\) cases ran.*/\1/p' "$1"; }
printf '   derivatives checked: %d; without softplus: %d\n' "$(cases "$scratch/results")" "$(cases "$scratch/before")"
is_true "$(cases "$scratch/results") > $(cases "$scratch/before")"

step "a wrong derivative is caught"
holds docs/examples/cumsum.cu "{!a.reverse}"
sed -i 's/{!a.reverse}/{a.reverse}/' docs/examples/cumsum.cu
cumsum=$(compile docs/examples/cumsum.cu docs/examples/cumsum.cu)
link "$scratch/wrong" "$pointwise" "$cumsum" "$mine"
if "$scratch/wrong" --test-case='derivatives against*' >"$scratch/results" 2>&1; then fail "the derivative of cumsum is wrong and nothing noticed"; fi
holds "$scratch/results" "cumsum reverse"

step "done"
