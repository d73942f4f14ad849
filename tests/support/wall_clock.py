"""A wall clock that a test can move, for one real process.

A small library, loaded before the process's own, adds an offset to `CLOCK_REALTIME`; the offset is
read from a file at each call.  Monotonic clocks stay what they are, as they do on a machine whose
date is set.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from gpu_simulator.build import find_compiler

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    const char *path = getenv("TEST_WALL_CLOCK_OFFSET");
    if (code != 0 || clock != CLOCK_REALTIME || path == NULL) return code;
    FILE *file = fopen(path, "r");
    long seconds = 0;
    if (file != NULL) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    now->tv_sec += seconds;
    return 0;
}
"""


class WallClock:
    """The wall clock of the processes that get `environment`.

    Args:
        folder: where the library and the offset lie.
    """

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "wall-clock-offset"
        self.jump(0)
        source, library = folder / "wall_clock.c", folder / "wall_clock.so"
        source.write_text(_SOURCE)
        command = [*find_compiler(), "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
        subprocess.run([*command, "-ldl"], check=True, capture_output=True)
        self.environment = {
            "LD_PRELOAD": str(library),
            "TEST_WALL_CLOCK_OFFSET": str(self._offset),
        }

    def jump(self, seconds: int) -> None:
        """Set the clock to so many seconds from the true time."""
        temporary = self._offset.with_suffix(".new")
        temporary.write_text(str(seconds))
        temporary.replace(self._offset)
