"""What each rival adds to a plain `DataLoader`: a step, an epoch, other threads, file-system calls.

All rivals take turns, round by round, and within a round each is measured beside a plain loader in
its own process: what is reported is the mean over rounds of the differences of the two, with the
95 % interval of that mean.  What is added to a step is less than what a machine's speed changes
from one epoch to the next: there the two take turns step by step.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.runtime.rivals import Worker, rivals

STEP_AIM_US = 1.0
EPOCH_AIM_MS = 2.0
THREADS_AIM_PERCENT = 1.0
STEPS = 2000
SHORT_EPOCH_STEPS = 50
"""Enough for a worker; what an epoch costs shows best where it has few steps."""

PROFILE_MOST_EPOCHS = 400


@dataclass(frozen=True)
class Estimate:
    """A mean with the half-width of its 95 % interval."""

    value: float
    half_width: float

    def __str__(self) -> str:
        """Return it in three digits, as in a table."""
        digits = 0 if abs(self.value) >= 100 else 1 if abs(self.value) >= 10 else 2
        return f"{self.value:,.{digits}f} ± {self.half_width:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: was measured.
        unit: of its values.
        aim: most that ours may be; None: there is none.
        values: by the rival's name.
    """

    what: str
    unit: str
    aim: float | None
    values: dict[str, Estimate]


# Student's t for 95 %, by degrees of freedom; beyond the last one by the normal distribution.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


def estimate(values: list[float]) -> Estimate:
    """Return the mean and its interval; of all rounds, whatever disturbed them."""
    freedom = len(values) - 1
    if freedom < 1:
        return Estimate(values[0], math.inf)
    t = _T[freedom - 1] if freedom <= len(_T) else 2.1
    return Estimate(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values)))


def measure(quick: bool) -> list[Row]:
    """Return all rows."""
    rows = []
    with rivals(STEPS) as workers:
        profiling = {worker.name: _profile(worker) for worker in workers}
        for body, text in (("data", "nothing but the data"), ("model", "a small model")):
            rounds = (5 if quick else 40) if body == "data" else (3 if quick else 20)
            what = f"a step, no window beginning or ending; {text}"
            rows.append(Row(what, "us", STEP_AIM_US, _steps(workers, body, rounds)))
        rows.append(Row("a step while limits are profiled, on average", "us", None, profiling))
        seen = _rounds(workers, "model", 3 if quick else 20)
        rows.append(
            Row(
                "processor time of its other threads, per time trained",
                "%",
                THREADS_AIM_PERCENT,
                _differences(seen, lambda epoch: 100.0 * epoch["others_cpu_ns"] / epoch["wall_ns"]),
            )
        )
        calls = {worker.name: _file_calls(worker) for worker in workers}
        rows.append(Row("file-system calls a step", "", 0.0, calls))
    with rivals(SHORT_EPOCH_STEPS) as workers:
        for worker in workers:
            _profile(worker)
        seen = _rounds(workers, "data", 10 if quick else 100)
        rows.append(
            Row(
                f"an epoch of {SHORT_EPOCH_STEPS} steps, in all",
                "ms",
                EPOCH_AIM_MS,
                _differences(seen, lambda epoch: epoch["whole_ns"] / 1e6),
            )
        )
    return rows


Seen = dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]
"""By the rival's name, for each round: its own epoch, and a plain one."""


def _steps(workers: list[Worker], body: str, rounds: int) -> dict[str, Estimate]:
    added: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for _ in range(rounds):
        for worker in workers:
            added[worker.name].append(worker.added_ns(body) / 1e3)
    return {name: estimate(values) for name, values in added.items()}


def _rounds(workers: list[Worker], body: str, rounds: int) -> Seen:
    seen: Seen = {worker.name: [] for worker in workers}
    for turn in range(rounds):
        for worker in workers:
            seen[worker.name].append(_pair(worker, body, plain_first=turn % 2 == 0))
    return seen


def _pair(worker: Worker, body: str, plain_first: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    if plain_first:
        plain = worker.epoch("plain", body)
        return worker.epoch("rival", body), plain
    return worker.epoch("rival", body), worker.epoch("plain", body)


def _differences(seen: Seen, figure: Callable[[dict[str, Any]], float]) -> dict[str, Estimate]:
    return {
        name: estimate([figure(rival) - figure(plain) for rival, plain in pairs])
        for name, pairs in seen.items()
    }


def _profile(worker: Worker) -> Estimate:
    """Train until the rival has chosen a limit; return what a step has cost it meanwhile."""
    differences = []
    for turn in range(PROFILE_MOST_EPOCHS):
        rival, plain = _pair(worker, "model", plain_first=turn % 2 == 0)
        differences.append((rival["mean_ns"] - plain["mean_ns"]) / 1e3)
        if rival["settled"]:
            break
    else:
        sys.stderr.write(f"{worker.name} has chosen no limit in {PROFILE_MOST_EPOCHS} epochs\n")
    return estimate(differences)


def _file_calls(worker: Worker) -> Estimate:
    """Return the calls of one step: those of a whole epoch are spread over its steps."""
    calls = worker.file_calls("rival") - worker.file_calls("plain")
    return Estimate(calls // STEPS, 0.0)
