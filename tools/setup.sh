#!/usr/bin/env bash
# Builds .venv from the locked requirements.  Needs Python >= 3.11 and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'set-up: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "needs Python 3.11 or newer; install one, or name it: make setup PYTHON=/path/to/python3"
}

python=$(find_python)
if ! .venv/bin/python -c '' 2>/dev/null; then
  rm -rf .venv
  "$python" -m venv .venv ||
    fail "$python has no venv module; on Debian and Ubuntu: apt install python3-venv"
fi
if ! .venv/bin/uv --version >/dev/null 2>&1; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
    -r requirements/bootstrap.txt
fi

echo "set-up: the locked packages go into .venv (torch is large: about 3 GB to download, once)"
export VIRTUAL_ENV="$PWD/.venv"
.venv/bin/uv pip install --quiet --require-hashes -r requirements/dev.txt
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation -e .
.venv/bin/python -c "import gpu_simulator; gpu_simulator.build_library()"
echo "set-up: done"
