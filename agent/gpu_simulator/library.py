"""The library's `gpuSim…` functions as typed Python functions."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, c_char_p, c_double, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass

from gpu_simulator.build import build_library

PARAMETER_COUNT = 11


@dataclass(frozen=True)
class OperatingPoint:
    """How one step runs under one power limit.

    Args:
        seconds: time of the step.
        watts: mean power over the step.
        clock: share of the full clock, 0..1.
        duty: below 1 the limit is under what the lowest clock needs and the GPU pauses.
        busy: share of the step in which the GPU computes, 0..1.
    """

    seconds: float
    watts: float
    clock: float
    duty: float
    busy: float

    @property
    def joules(self) -> float:
        """Energy of the step."""
        return self.seconds * self.watts


@functools.cache
def load() -> ctypes.CDLL:
    """Return the library, built if needed.

    Loaded by its full path: it works without LD_LIBRARY_PATH and beside a real driver.
    """
    library = ctypes.CDLL(str(build_library()))
    point = POINTER(c_double)
    signatures = {
        "gpuSimOpen": (c_void_p, [c_char_p]),
        "gpuSimCreate": (
            c_int,
            [
                c_char_p,
                POINTER(c_char_p),
                c_uint,
                c_uint,
                c_uint,
                c_ulonglong,
                c_double,
                c_double,
                c_double,
                c_char_p,
            ],
        ),
        "gpuSimModel": (c_char_p, [c_uint]),
        "gpuSimWorkload": (c_char_p, [c_int]),
        "gpuSimKey": (c_char_p, [c_int, c_int]),
        "gpuSimGet": (c_int, [c_void_p, c_int, c_char_p, point]),
        "gpuSimSet": (c_int, [c_void_p, c_int, c_char_p, c_double]),
        "gpuSimGetText": (c_int, [c_void_p, c_int, c_char_p, c_char_p, c_uint]),
        "gpuSimSetWorkload": (c_int, [c_void_p, c_int, c_char_p]),
        "gpuSimMigProfile": (c_int, [c_void_p, c_int, c_uint, c_char_p, c_uint]),
        "gpuSimMigCreate": (c_int, [c_void_p, c_int, c_char_p, c_char_p, c_uint]),
        "gpuSimMigDestroy": (c_int, [c_void_p, c_int, c_char_p]),
        "gpuSimMigGet": (
            c_int,
            [c_void_p, c_int, c_int, c_char_p, c_char_p, c_uint, POINTER(c_uint)],
        ),
        "gpuSimPredict": (c_int, [c_char_p, c_char_p, c_double, c_double, point]),
        "gpuSimEvaluate": (None, [point, c_double, c_double, point]),
        "gpuSimParameters": (c_int, [c_char_p, c_char_p, point]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def models() -> tuple[str, ...]:
    """Return the keys of the GPU models."""
    return tuple(_texts(lambda i: load().gpuSimModel(i)))


def workloads() -> tuple[str, ...]:
    """Return the names of the fitted workloads."""
    return tuple(_texts(lambda i: load().gpuSimWorkload(i)))


def keys(*, of_device: bool) -> tuple[str, ...]:
    """Return the names of the numbers a state or a device has."""
    return tuple(_texts(lambda i: load().gpuSimKey(int(of_device), i)))


def _texts(function: object) -> list[str]:
    assert callable(function)
    found: list[str] = []
    while (text := function(len(found))) is not None:
        found.append(text.decode())
    return found


def predict(
    model: str, workload: str, samples: float, limit_watts: float, time_scale: float = 1.0
) -> OperatingPoint:
    """Return how a step of `samples` runs on an otherwise idle GPU, without noise.

    Raises:
        KeyError: unknown model or workload.
    """
    out = (c_double * 5)()
    if load().gpuSimPredict(model.encode(), workload.encode(), samples, limit_watts, out) != 0:
        raise KeyError(f"no workload {workload!r} of model {model!r}")
    return OperatingPoint(out[0] * time_scale, *out[1:])


def evaluate(parameters: list[float], samples: float, limit_watts: float) -> OperatingPoint:
    """Return the same for parameters of one's own, in the order of `SimWorkload`."""
    if len(parameters) != PARAMETER_COUNT:
        raise ValueError(f"expected {PARAMETER_COUNT} parameters, got {len(parameters)}")
    out = (c_double * 5)()
    load().gpuSimEvaluate((c_double * PARAMETER_COUNT)(*parameters), samples, limit_watts, out)
    return OperatingPoint(*out)


def parameters(model: str, workload: str) -> list[float]:
    """Return the parameters (`SimWorkload` in native/model.h) of a workload on a model.

    Raises:
        KeyError: unknown model or workload.
    """
    out = (c_double * PARAMETER_COUNT)()
    if load().gpuSimParameters(model.encode(), workload.encode(), out) != 0:
        raise KeyError(f"no workload {workload!r} of model {model!r}")
    return list(out)
