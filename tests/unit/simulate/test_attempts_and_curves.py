"""What a policy is shown of an attempt, what curves and pools give: counted by hand."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.tiny_traces import Scripted, workload
from zeus_operator.optimizer.types import Choice
from zeus_operator.simulate.attempt import Recordings
from zeus_operator.simulate.curves import curves
from zeus_operator.simulate.pool import simulate_many
from zeus_operator.simulate.single_job import simulate_job
from zeus_operator.simulate.summary import summarize
from zeus_runtime.protocol import Outcome

MILESTONES = ((1, 0.1), (3, 0.3), (4, 0.5), (7, 0.6))


def recorded():
    plain = workload()
    small, large = plain.arms
    return replace(plain, arms=(small, replace(large, milestones=(MILESTONES,))))


def test_an_attempt_shows_the_milestones_up_to_its_end_and_none_beyond() -> None:
    script = Scripted((64, 20.0), (64, None))

    simulate_job(recorded(), script, recurrences=1, seed=0)

    stopped, reached = script.observations
    assert (stopped.epochs, stopped.milestones) == (2, ((1, 0.1),))
    assert (reached.epochs, reached.milestones) == (4, ((1, 0.1), (3, 0.3), (4, 0.5)))


def test_an_arm_without_recorded_milestones_shows_none() -> None:
    script = Scripted((32, None))

    simulate_job(recorded(), script, recurrences=1, seed=0)

    assert script.observations[0].milestones == ()


def test_an_attempt_without_an_epoch_draws_no_recorded_run() -> None:
    noisy = workload(epochs=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    straight, interrupted = Recordings(noisy, seed=3), Recordings(noisy, seed=3)

    assert interrupted.attempt(Choice(64, 9.0, ""), profiles=True).outcome is Outcome.COST_EXCEEDED
    drawn = [straight.attempt(Choice(64, None, ""), profiles=False).epochs for _ in range(8)]

    assert [
        interrupted.attempt(Choice(64, None, ""), profiles=False).epochs for _ in range(8)
    ] == drawn
    assert len(set(drawn)) > 1


def test_curves_are_means_after_each_recurrence() -> None:
    histories = [
        simulate_job(workload(), Scripted((64, None)), recurrences=2, seed=0),
        simulate_job(workload(), Scripted((32, None)), recurrences=2, seed=0),
    ]

    found = curves(workload(), histories)

    # Costs 44 then 40, and 39 then 36; the best arm's is 36, the default's 64.
    assert found.regret == pytest.approx((41.5 / 36 - 1, 79.5 / 36 - 2))
    assert found.cost_ratio == pytest.approx((41.5 / 64, 79.5 / 128))
    assert found.energy_ratio == pytest.approx((20.75 / 32, 39.75 / 64))
    assert found.batch_size_low == found.batch_size_middle == (32.0, 32.0)
    assert found.batch_size_high == (64.0, 64.0)


def test_a_default_that_never_reaches_the_target_has_no_ratios_and_nothing_is_worse() -> None:
    hopeless = workload(epochs=(math.inf,))
    histories = [simulate_job(hopeless, Scripted((32, None)), recurrences=2, seed=0)]

    found = curves(hopeless, histories)
    summary = summarize(hopeless, "scripted", histories, 2)

    assert (found.cost_ratio, found.energy_ratio) == ((), ())
    assert len(found.regret) == 2
    assert math.isinf(summary.cost_default)
    assert summary.worse_than_default == 0.0


@dataclass(frozen=True)
class Square:
    number: int

    def run(self) -> tuple[int, int]:
        return self.number**2, os.getpid()


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_tasks(processes: int) -> None:
    found = list(simulate_many([Square(n) for n in range(40)], processes))

    assert [square for square, _ in found] == [n**2 for n in range(40)]
    assert (os.getpid() in {pid for _, pid in found}) is (processes == 1)


def test_a_reader_that_goes_away_leaves_no_process_behind() -> None:
    results = simulate_many([Square(n) for n in range(40)], processes=2)
    _, pid = next(results)

    results.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_program_that_was_killed(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.support.endless_simulation", str(tmp_path)]
    with subprocess.Popen(command) as program:
        try:
            workers = eventually(
                lambda: names if len(names := list(tmp_path.iterdir())) == 2 else [],
                "two workers",
            )
        finally:
            program.send_signal(number)

    for worker in workers:
        eventually(lambda pid=worker.name: not _is_alive(pid), f"worker {worker.name} ended")


def _is_alive(pid: str) -> bool:
    """Whether the process is there and is no zombie, which nobody may be there to reap."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
