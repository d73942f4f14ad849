#!/usr/bin/env bash
# Fails when a generated file in the tree is not what its source generates.
set -euo pipefail
cd "$(dirname "$0")/.."

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -r requirements "$before/"
tools/lock.sh
if ! diff -r "$before/requirements" requirements >/dev/null; then
  rm -rf requirements && cp -r "$before/requirements" requirements
  echo "requirements/*.txt do not match pyproject.toml: run \`make lock\` and commit" >&2
  exit 1
fi
.venv/bin/python -m zeus_operator.api.docs --check
tools/generate_proto.sh --check
.venv/bin/python -m zeus_agent.openapi --check
.venv/bin/python -m tools.chart_values --check
.venv/bin/python -m tools.metrics_reference --check
.venv/bin/python -m tools.dashboards --check
