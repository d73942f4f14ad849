#!/usr/bin/env bash
# Measures the figures of the docs.  ZEUS_TRACES and ZEUS_GPU_PROFILES name the folders of the
# published measurements (benchmarks/README.md); a benchmark whose data is missing says so and fails.
set -uo pipefail
cd "$(dirname "$0")/.."

status=0
measure() {
  echo "== $*"
  .venv/bin/python "$@" || status=1
}
measure benchmarks/optimizer/run.py --all --fresh
measure benchmarks/optimizer/speed.py
measure -m benchmarks.savings.run
measure -m benchmarks.gpu_model.fit
measure -m benchmarks.operator.run
measure -m benchmarks.agent.run
measure -m benchmarks.runtime.run
exit $status
