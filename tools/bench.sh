#!/usr/bin/env bash
# Measures the figures of the docs.  ZEUS_TRACES and ZEUS_GPU_PROFILES name the folders of the
# published measurements; a benchmark whose data is missing says so and fails the command.
set -uo pipefail
cd "$(dirname "$0")/.."

status=0
for script in benchmarks/*/run.py; do
  echo "== $script"
  .venv/bin/python "$script" || status=1
done
exit $status
