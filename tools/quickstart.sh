#!/usr/bin/env bash
# From a fresh clone to a trained model: installs what is missing, builds, generates a small ListOps data set, trains, evaluates,
# writes the report. Usage: bash tools/quickstart.sh [cmake options, e.g. -DFLARE_CUDA=OFF]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
for option in "$@"; do
  [[ $option == -D* ]] || setup_fail "unknown option $option; usage: bash tools/quickstart.sh [-D<cmake variable>=<value> ...]"
done
cd "$flare_root"
recipe=tools/configs/lra/listops-mini.json
flare=build/flare

setup_install "$@"
setup_build build flare "$@"

# The recipe names its data folder and the options that make it.
data=$(sed -n 's/.*"data": *"\([^"]*\)".*/\1/p' "$recipe")
read -r -a generate <<<"$(sed -n 's/.*"generate": *"\([^"]*\)".*/\1/p' "$recipe")"
if [[ -f $data/dataset.json ]]; then
  setup_say "$data is there: kept (delete it to have it generated again)"
else
  setup_say "flare data generate ${generate[*]} --out $data"
  "$flare" data generate "${generate[@]}" --out "$data"
fi

# A finished run is kept and the next one gets a folder of its own; an interrupted one is resumed.
train() {  # train [--resume]
  setup_say "flare train $recipe --run $run $*"
  status=0
  "$flare" train "$recipe" --run "$run" "$@" || status=$?
}
number=1
while [[ -e runs/quickstart-$number/eval-test.json ]]; do number=$((number + 1)); done
run=runs/quickstart-$number
if [[ -e $run/config.json ]]; then
  setup_say "continuing the unfinished run $run"
  train --resume
  if [[ $status == 2 ]]; then  # it was begun with another recipe, or another process is training in it
    while [[ -e runs/quickstart-$number ]]; do number=$((number + 1)); done
    run=runs/quickstart-$number
    train
  fi
else
  train
fi
if [[ $status == 130 ]]; then setup_say "interrupted and saved: run this again to continue"; fi
[[ $status == 0 ]] || exit "$status"

setup_say "flare eval $run"
"$flare" eval "$run"

# value <key>: a number on the top level of the evaluation.
value() { sed -n "s/^  \"$1\": *\([-+0-9.eE]*\).*/\1/p" "$run/eval-test.json"; }
accuracy=$(value accuracy)
majority=$(value majority_accuracy)
printf '\n'
setup_say "test accuracy       $accuracy  ($(value n_samples) samples)"
setup_say "majority class      $majority  (always answering class $(value majority_class))"
setup_say "report              $flare_root/$run/report.html"
setup_say "weights             $flare_root/$run/checkpoints/best/model.safetensors"
setup_say "time                $((SECONDS / 60)) min $((SECONDS % 60)) s"
awk -v a="$accuracy" -v m="$majority" 'BEGIN { exit !(a > m) }' ||
  setup_fail "the model is not better than the majority class: something is wrong with this build; try bash tools/test.sh"
