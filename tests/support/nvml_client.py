"""A separate process that uses unmodified nvidia-ml-py on a simulated machine.

The process evaluates one expression a line, so that a test can change the machine between two
calls of a live client.  Names in an expression: all of `pynvml`, `gpu(index)` (a handle), and the
work API as `begin(index, samples, workload)`, `finish(index, ticket)` and `energy(index)`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import gpu_simulator

_PROGRAM = r"""
import ctypes, json, os, sys, time
import pynvml
from pynvml import *

def gpu(index):
    return pynvml.nvmlDeviceGetHandleByIndex(index)

def library():
    return ctypes.CDLL("libnvidia-ml.so.1")

def uuid(index):
    return pynvml.nvmlDeviceGetUUID(gpu(index)).encode()

def check(code):
    if code != 0:
        raise pynvml.NVMLError(code)

def begin(index, samples, workload=None):
    ticket = ctypes.c_ulonglong()
    check(library().gpuSimBeginWork(
        uuid(index), workload and workload.encode(), ctypes.c_double(samples),
        ctypes.byref(ticket)))
    return ticket.value

def finish(index, ticket):
    seconds = ctypes.c_double()
    check(library().gpuSimFinishWork(
        uuid(index), ctypes.c_ulonglong(ticket), ctypes.byref(seconds)))
    return seconds.value

def step(index, samples, workload=None):
    return finish(index, begin(index, samples, workload))

def energy(index):
    joules = ctypes.c_double()
    check(library().gpuSimTrueEnergy(uuid(index), ctypes.byref(joules)))
    return joules.value

def has(name):
    return hasattr(library(), name)

for line in sys.stdin:
    try:
        answer = {"value": eval(line)}
    except pynvml.NVMLError as error:
        answer = {"nvml_error": error.value}
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer, default=repr), flush=True)
"""


class NvmlFailedError(Exception):
    """A call of the client answered an NVML error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML error {code}")
        self.code = code


class NvmlClient:
    """One live process; `client("nvmlDeviceGetCount()")` is evaluated in it."""

    def __init__(
        self,
        state: Path | None,
        *,
        initialise: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        base = dict(os.environ if environ is None else environ)
        base.pop(gpu_simulator.STATE_VARIABLE, None)
        added = gpu_simulator.environment(state or "/nonexistent", base)
        if state is None:
            del added[gpu_simulator.STATE_VARIABLE]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env={**base, **added},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if initialise:
            self("nvmlInit()")

    def send(self, expression: str) -> None:
        """Start the evaluation and return."""
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        """Return the value of the expression sent before, or raise `NvmlFailedError`."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"the client ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "nvml_error" in answer:
            raise NvmlFailedError(answer["nvml_error"])
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["value"]

    def __call__(self, expression: str) -> Any:
        """Return the value of `expression` in the client."""
        self.send(expression)
        return self.receive()

    def error_of(self, expression: str) -> int:
        """Return the NVML error code of `expression`, 0 if it succeeds."""
        try:
            self(expression)
        except NvmlFailedError as error:
            return error.code
        return 0

    def kill(self) -> None:
        """SIGKILL the process and reap it."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> NvmlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
