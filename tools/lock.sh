#!/usr/bin/env bash
# Renews requirements/*.txt.  Hashes, no addresses: any mirror serves the same files.
# Pins that still satisfy pyproject.toml stay; `tools/lock.sh --upgrade` moves them.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() { # output, uv arguments...
  local output=$1
  shift
  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
    --output-file "$output" "$@" ${upgrade:+"$upgrade"}
}

upgrade=${1:-}
compile requirements/bootstrap.txt requirements/bootstrap.in
compile requirements/operator.txt pyproject.toml --extra operator
compile requirements/agent.txt pyproject.toml --extra agent
compile requirements/dev.txt pyproject.toml --extra dev
compile requirements/runtime.txt pyproject.toml  # what every installation has
compile requirements/images.txt requirements/images.in
compile requirements/example.txt requirements/example.in --no-deps
compile requirements/peers.txt requirements/peers.in
