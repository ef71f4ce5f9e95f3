#!/usr/bin/env bash
# Measures the FLARE mixer, attention and whole training steps beside PyTorch on this machine and joins the results.
#
#   bash tools/bench/mixer.sh [--out DIR] [--device cuda|cpu] [--repeats N] [--shapes LIST] [--dtype LIST] [--threads N] [part ...]
#
# Parts (default: mixer), with their results in DIR (default: runs/bench):
#   mixer, sdpa   ours and the peer's, joined: <part>.md
#   step          training steps of nine settings (--shapes names some), each in its own precision: step.md
#   ladder        the reader's ladder: ladder.md
#   linearity     time against N from 10^4 to 10^7 tokens: mixer_linearity.svg
#   curve         time and memory of a whole step from 10^4 to 10^7 points, FLARE and softmax: step_time.svg, step_memory.svg
# FLARE names the program (build/flare), PYTHON the interpreter that has PyTorch (python3). Without PyTorch ours is measured alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/bench device=auto repeats=20 shapes='' dtype=f32,tf32,bf16 threads=0 parts=()
while [ $# -gt 0 ]; do
  case "$1" in
    --out | --device | --repeats | --shapes | --dtype | --threads)
      [ $# -ge 2 ] || { echo "mixer.sh: $1 needs a value" >&2; exit 2; }
      printf -v "${1#--}" %s "$2"
      shift 2 ;;
    mixer | sdpa | step | ladder | linearity | curve) parts+=("$1"); shift ;;
    -h | --help) sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "mixer.sh: no part or option $1; see --help" >&2; exit 2 ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(mixer)
flare=${FLARE:-build/flare} python=${PYTHON:-python3} here=tools/bench
[ -x "$flare" ] || { echo "mixer.sh: $flare is not there; build it, or name it in FLARE" >&2; exit 2; }
mkdir -p "$out"
has_torch=no
"$python" -c 'import torch' 2>/dev/null && has_torch=yes
peer_device=$device
[[ $device == cuda* ]] && peer_device=cuda

for part in "${parts[@]}"; do
  echo "== $part"
  case "$part" in
    mixer | sdpa)
      options=(--device "$device" --repeats "$repeats" --dtype "$dtype" --threads "$threads")
      [ -z "$shapes" ] || options+=(--shapes "$shapes")
      "$flare" bench "$part" "${options[@]}" --json >"$out/$part-flare.jsonl"
      : >"$out/$part-torch.jsonl"
      if [ $has_torch = yes ]; then
        options[1]=$peer_device
        [ "$part" = mixer ] || options+=(--sdpa)
        # What was measured before a failure of the peer is kept and joined.
        "$python" "$here/peer_torch.py" "${options[@]}" >"$out/$part-torch.jsonl" ||
          echo "mixer.sh: the peer ended early" >&2
      else
        echo "mixer.sh: $python has no torch: no peer" >&2
      fi
      "$python" "$here/compare.py" "$out/$part-flare.jsonl" "$out/$part-torch.jsonl" >"$out/$part.md"
      "$python" "$here/compare.py" --format text "$out/$part-flare.jsonl" "$out/$part-torch.jsonl" 2>/dev/null ;;
    step)
      names=${shapes:-all}
      [ "$threads" = 0 ] || export FLARE_THREADS=$threads
      "$flare" bench step ${names//,/ } --device "$device" --repeats "$repeats" --json >"$out/step-flare.jsonl"
      : >"$out/step-torch.jsonl"
      if [ $has_torch = yes ]; then
        modes=eager,compile,graphs
        [ "$("$python" -c 'import torch; print(torch.cuda.is_available())')" = True ] && [ "$device" != cpu ] || modes=eager,compile
        "$python" "$here/peer_torch.py" --step --shapes "$names" --modes $modes --device "$peer_device" --repeats "$repeats" \
          --threads "$threads" >"$out/step-torch.jsonl" || echo "mixer.sh: the peer ended early" >&2
      else
        echo "mixer.sh: $python has no torch: no peer" >&2
      fi
      "$python" "$here/compare.py" "$out/step-flare.jsonl" "$out/step-torch.jsonl" | tee "$out/step.md" ;;
    ladder)
      : >"$out/ladder-flare.jsonl"
      for rung in naive tiled tensor-core split-token final; do
        "$flare" bench mixer --kernel $rung --shapes "${shapes:-listops,drivaer40k,1m-d16-m64}" --dtype f32,bf16 --device "$device" \
          --repeats "$repeats" --json >>"$out/ladder-flare.jsonl"
      done
      "$python" "$here/compare.py" --ladder "$out/ladder-flare.jsonl" | tee "$out/ladder.md" ;;
    linearity)
      lengths=""
      for n in 10000 30000 100000 300000 1000000 3000000 10000000; do lengths+="1,8,16,64,$n,"; done
      "$flare" bench mixer --shapes "$lengths" --dtype f32,bf16 --device "$device" --repeats "$repeats" --json \
        >"$out/linearity-flare.jsonl"
      "$python" "$here/linearity.py" "$out/linearity-flare.jsonl" --output "$out/mixer_linearity.svg" ;;
    curve)
      : >"$out/curve-flare.jsonl"
      point() {  # a length that does not fit ends its own line alone
        "$flare" bench step 1m --device "$device" --repeats "$repeats" --no-profile --json --tokens "$@" >>"$out/curve-flare.jsonl" ||
          echo "mixer.sh: not measured: --tokens $*" >&2
      }
      for n in 10000 30000 100000 300000 1000000 3000000 10000000; do
        point $n
        [ $n -lt 1000000 ] || point $n --set train.recompute=keys
      done
      # Its time grows with N^2: the next point would take minutes.
      for n in 10000 30000 100000; do point $n --set model.mixer=softmax --set model.scale=0; done
      "$python" "$here/linearity.py" "$out/curve-flare.jsonl" --title "Training step" --output "$out/step_time.svg"
      "$python" "$here/linearity.py" "$out/curve-flare.jsonl" --title "Training step" --of memory --output "$out/step_memory.svg" ;;
  esac
done
echo "results in $out"
