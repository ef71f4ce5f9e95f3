#!/usr/bin/env bash
# Runs tools/bench/trainings.py at a small size, with tests/docs/flare in place of flare.   usage: tests/bench/run.sh <flare program>
# Exit code 77: skipped.
set -euo pipefail
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }
export FLARE_PROGRAM=$1 PYTHONDONTWRITEBYTECODE=1
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
ln -s "$source/tools" tools
train() { python3 tools/bench/trainings.py "$@" --flare "$source/tests/docs/flare" --device auto --gpus 2; }
fail() { echo "tests/bench: $1"; cat out; exit 1; }
has() { grep -q -- "$1" out || fail "no \"$1\""; }

# Two rows that share stages, two seeds, two runs at a time.
train pathfinder32 pathfinder32-160k --seeds 2 >out || fail "exit code $?"
for run in pathfinder32-short pathfinder32-mixed pathfinder32 pathfinder32-160k; do
  for seed in 0 1; do
    has "^runs/$run-seed$seed  *accuracy  *[01]\.[0-9]"
    test "$(grep -c "runs/$run-seed$seed: started" out)" = 1 || fail "runs/$run-seed$seed did not start once"
  done
done
grep -q "from runs/pathfinder32-short-seed1/" runs/pathfinder32-mixed-seed1/log.txt || fail "stages are not chained by seed"
grep -q "from runs/pathfinder32-mixed-seed0/" runs/pathfinder32-160k-seed0/log.txt || fail "the second row is not chained"
test "$(grep -c "data/pathfinder32-short: made" out)" = 1 || fail "data were not made once"

# Again: all is kept.
train pathfinder32 pathfinder32-160k --seeds 2 >out || fail "exit code $?"
grep -q started out && fail "something started again"

# No time: stopped, with a word; then it goes on.
train elasticity-softmax --seconds 0 >out && fail "exit code 0 without time"
has "not finished"
has "the same command goes on"
train elasticity-softmax >out || fail "exit code $?"
has "^runs/elasticity-softmax-seed0  *relative_l2 "

# What fails takes along what needs it, and nothing else.
train image listops --seeds 1 >out && fail "exit code 0 without CIFAR-10"
has "data/image: failed: .*sources"
has "^runs/image-seed0  *failed"
has "^runs/listops-seed0  *accuracy "
train nothing >out 2>&1 && fail "a row that does not exist was taken"
has "no row 'nothing'; --list names them"
echo "tests/bench: passed"
