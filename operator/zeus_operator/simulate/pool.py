"""Many simulations over several processes, in the order they were asked for."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol, TypeVar

R_co = TypeVar("R_co", covariant=True)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MOST_IN_A_CHUNK = 50  # a chunk shares one copy of its workload; more of them show progress


class Simulation(Protocol[R_co]):
    """A simulation that says all it needs; picklable."""

    def run(self) -> R_co:
        """Simulate."""
        ...


def simulate_many(tasks: Iterable[Simulation[R_co]], processes: int = 1) -> Iterator[R_co]:
    """Return what each task gives, in the order of the tasks, as soon as it is known.

    The result does not depend on `processes`: each task draws from its own seeds.
    """
    if processes <= 1:
        return (task.run() for task in tasks)
    return _in_pool(list(tasks), processes)


def _in_pool(tasks: list[Simulation[R_co]], processes: int) -> Iterator[R_co]:
    chunk = max(1, min(_MOST_IN_A_CHUNK, len(tasks) // (4 * processes)))
    pool = ProcessPoolExecutor(processes, initializer=_follow_the_parent, initargs=(os.getpid(),))
    try:
        yield from pool.map(_run, tasks, chunksize=chunk)
    finally:
        # Ctrl-C, or a reader that goes away, must not wait for what nobody will see.
        pool.shutdown(cancel_futures=True)


def _run(task: Simulation[R_co]) -> R_co:
    return task.run()


def _follow_the_parent(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it ends in whatever way.

    A killed parent tells its workers nothing: each holds the other end of the pipe
    that it waits on, and would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)
