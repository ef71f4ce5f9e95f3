#!/usr/bin/env bash
# Opens reports in a headless Chromium and checks what it makes of them. Usage: bash tests/browser/run.sh FLARE
# Exit code 77, for CTest a skipped test, where Chromium or Python 3 is missing.
set -euo pipefail
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [[ -z $browser ]]; then
  echo "SKIPPED: no Chromium here (Debian package chromium), so no report was opened in a browser"
  exit 77
fi
if ! command -v python3 >/dev/null; then
  echo "SKIPPED: no python3 here, so no report was opened in a browser"
  exit 77
fi
export PYTHONDONTWRITEBYTECODE=1
exec python3 "$folder/check_reports.py" "$1" "$browser"
