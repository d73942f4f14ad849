"""Programs that use the package `zeus` in its own interpreter, on simulated GPUs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch

# Zeus asks for a framework.  torch is ours, behind Zeus's own packages.  In place of waiting for a
# CUDA device there is nothing to do: work on a simulated GPU is waited for where it is given.
_PROLOGUE = """
import ctypes, json, os, sys, types
sys.path.append({torch!r})
cupy = types.ModuleType("cupy")
cupy.cuda = types.SimpleNamespace(
    Device=lambda index: types.SimpleNamespace(synchronize=lambda: None))
sys.modules["cupy"] = cupy
import pynvml
from zeus.device import get_gpus
from zeus.monitor import ZeusMonitor
gpus = get_gpus()
pynvml.nvmlInit()
library = ctypes.CDLL("libnvidia-ml.so.1")

def uuid(index):
    return pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)).encode()

def step(index, samples):
    ticket, seconds = ctypes.c_ulonglong(), ctypes.c_double()
    begin = library.gpuSimBeginWork(uuid(index), None, ctypes.c_double(samples),
                                    ctypes.byref(ticket))
    assert begin == 0 and library.gpuSimFinishWork(uuid(index), ticket, ctypes.byref(seconds)) == 0
    return seconds.value

def energy(index):
    joules = ctypes.c_double()
    assert library.gpuSimTrueEnergy(uuid(index), ctypes.byref(joules)) == 0
    return joules.value

def limit(index):
    return pynvml.nvmlDeviceGetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByIndex(index))
"""


def run_zeus(interpreter: Path, program: str, environ: dict[str, str]) -> Any:
    """Run `program` behind the prologue and return what it prints, as JSON.

    The prologue gives it `gpus`, `ZeusMonitor` and pynvml, and of GPU `index`
    `step(index, samples)`, `energy(index)` in joules and `limit(index)` in milliwatts.
    """
    packages = str(Path(torch.__file__).parents[1])
    done = subprocess.run(
        [interpreter, "-c", _PROLOGUE.format(torch=packages) + program],
        env={name: value for name, value in environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
