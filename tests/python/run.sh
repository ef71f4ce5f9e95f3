#!/usr/bin/env bash
# Runs test_exchange.py.   usage: tests/python/run.sh <flare program>
# FLARE_PYTHON names another interpreter. Exit code 77: skipped.
set -euo pipefail
python=${FLARE_PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
  echo "skipped: the exchange of weights with PyTorch was not tested: no $python"
  exit 77
fi
exec env PYTHONDONTWRITEBYTECODE=1 "$python" "$(dirname "${BASH_SOURCE[0]}")/test_exchange.py" "$1"
