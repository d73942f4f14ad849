#!/bin/sh
# Runs a command with the Python packages that lie beside this file: `launch python train.py`.
# The runtime image holds it as `launch`; an init container copies both into the pod of a run.
folder=$(CDPATH='' cd -- "${0%/*}" && pwd) || exit 127
PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
exec "$@"
