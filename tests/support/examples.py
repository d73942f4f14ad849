"""Runs the examples as users do: the command of the ZeusJob, on data that the example makes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from gpu_simulator import environment
from tests.support.forked_scripts import Scripts
from tests.support.runtime_lab import ROOT
from zeus_operator.api.manifest import load_manifest
from zeus_operator.api.template import training_container
from zeus_operator.executors.command import command
from zeus_runtime import protocol
from zeus_runtime.protocol import Decision

EXAMPLES = ROOT / "examples"


def module(example: str, name: str) -> ModuleType:
    """Import a file of an example, under a name that no other example has."""
    known = f"example_{example}_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, EXAMPLES / example / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


def make_slice(example: str, target: Path, *options: str) -> Path:
    """Make the example's small data."""
    script = str(EXAMPLES / example / "make_slice.py")
    subprocess.run([sys.executable, script, str(target), *options], check=True)
    return target


def words_of(example: str, decision: Decision) -> list[str]:
    """Return what follows `python` in the example's manifest, `$(ZEUS_…)` filled in."""
    spec = load_manifest(EXAMPLES / example / "zeusjob.yaml").job.spec
    injected = {protocol.ENV_BATCH_SIZE: str(decision.batch_size)}
    if decision.learning_rate is not None:
        injected[protocol.ENV_LEARNING_RATE] = f"{decision.learning_rate:.12g}"
    _, *words = command(training_container(spec), injected, {}).arguments
    return [str(EXAMPLES / example / word) if word == "train.py" else word for word in words]


def script_and_arguments(example: str, decision: Decision) -> list[str]:
    """Return of these words those of the script, without what a launcher gets."""
    words = words_of(example, decision)
    return words[words.index(str(EXAMPLES / example / "train.py")) :]


@contextlib.contextmanager
def forked(folder: Path, *modules: str) -> Iterator[Scripts]:
    """A process that has imported what takes long in a script, and can run scripts after that.

    Among it is what torch's first optimizer imports.
    """
    environ = {**os.environ, **environment(folder / "none"), "OMP_NUM_THREADS": "1"}
    made = Scripts(["torch._dynamo", *modules], folder, environ)
    try:
        yield made
    finally:
        made.close()


def epochs_told(output: str) -> list[int]:
    """Return the numbers of the epochs that a script has printed."""
    lines = [line.split() for line in output.splitlines()]
    return [int(words[1].rstrip(":")) for words in lines if words[:1] == ["epoch"]]
