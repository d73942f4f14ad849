#!/usr/bin/env bash
# Writes the protobuf modules (*_pb2.py, *_pb2.pyi) beside each .proto of agent and simulator.
# `--check` only says whether those in the tree are what the .proto files give.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
target=agent
if [[ ${1:-} == --check ]]; then
  target=$(mktemp -d)
  trap 'rm -rf "$target"' EXIT
fi

stale=0
while read -r proto; do
  # The name in the descriptor is the path from here: unique in a process.
  "$python" -m grpc_tools.protoc --proto_path=agent \
    --python_out="$target" --pyi_out="$target" "$proto"
  for generated in "${proto%.proto}_pb2.py" "${proto%.proto}_pb2.pyi"; do
    if ! cmp -s "agent/$generated" "$target/$generated"; then
      echo "agent/$generated is not what agent/$proto gives: run tools/generate_proto.sh" >&2
      stale=1
    fi
  done
done < <(cd agent && find zeus_agent gpu_simulator -name '*.proto' | sort)
exit "$stale"
