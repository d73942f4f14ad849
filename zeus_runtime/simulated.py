"""Declares the work of a training step to a simulated GPU.

A simulated NVML library exports more symbols than a real one.  Work is enqueued
when a batch is handed out, like a kernel launch, and awaited when the next one is
asked for; what the CPU computes in between overlaps with it.
"""

from __future__ import annotations

import ctypes
from typing import Any, Mapping, Optional

ENV_WORKLOAD = "GPU_SIM_WORKLOAD"  # the simulator's own name


class SimulatedWork:
    """The work queue of one simulated GPU, for one thread at a time."""

    def __init__(self, library: Any, uuid: str, workload: str) -> None:
        self._begin = library.gpuSimBeginWork
        self._begin.argtypes = [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_double,
            ctypes.POINTER(ctypes.c_ulonglong),
        ]
        self._begin.restype = ctypes.c_int
        self._finish = library.gpuSimFinishWork
        self._finish.argtypes = [
            ctypes.c_char_p,
            ctypes.c_ulonglong,
            ctypes.POINTER(ctypes.c_double),
        ]
        self._finish.restype = ctypes.c_int
        self._uuid = uuid.encode()
        self._workload = workload.encode() or None
        self._ticket = ctypes.c_ulonglong(0)
        self._seconds = ctypes.c_double(0.0)
        self._pending = False
        self.error_code = 0

    @classmethod
    def of_library(
        cls, library: Any, uuid: str, environ: Mapping[str, str]
    ) -> Optional[SimulatedWork]:
        """Return the queue of the GPU, or None if `library` is a real NVML."""
        try:
            library.gpuSimVersion  # noqa: B018 -- ctypes looks the symbol up here
        except AttributeError:
            return None
        return cls(library, uuid, environ.get(ENV_WORKLOAD, ""))

    def begin(self, samples: float) -> None:
        """Enqueue the work of that many samples; what was enqueued before is awaited first."""
        if self._pending:
            self.finish()
        if self.error_code:
            return
        code = self._begin(self._uuid, self._workload, samples, ctypes.byref(self._ticket))
        self._pending = code == 0
        self.error_code = code

    def finish(self) -> None:
        """Block until the work is done; does nothing if there is none.

        After an error (`error_code`, a value of nvmlReturn_t) nothing is declared any more.
        """
        if not self._pending:
            return
        self._pending = False
        self.error_code = self._finish(self._uuid, self._ticket, ctypes.byref(self._seconds))
