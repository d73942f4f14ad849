"""The trace simulator's rules, on a workload small enough to count by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest

from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.simulate.single_job import Task, problem_of, simulate_job, simulate_many
from zeus_operator.simulate.summary import regret_ratio, summarize
from zeus_operator.simulate.traces import (
    EpochCost,
    TraceArm,
    TraceError,
    TraceJob,
    Workload,
    load_workloads,
)
from zeus_runtime.protocol import Outcome

TRAIN = "dataset,network,batch_size,optimizer,learning_rate,run,target_metric,target_epoch\n"
POWER = "dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power\n"
JOBS = {
    "toy": TraceJob("net", "sgd", 0.5, max_epochs=10, default_batch_size=64, higher_is_better=True)
}


def epoch(cost: float) -> EpochCost:
    return EpochCost(cost, cost / 2, cost / 10)


def workload(epochs: tuple[float, ...] = (4.0,)) -> Workload:
    """Arms 32 and 64: 12 and 10 J an epoch, profiling 15 and 14 J, full power 18 and 16 J."""
    arms = (
        TraceArm(32, epoch(12.0), epoch(15.0), epoch(18.0), (3.0,)),
        TraceArm(64, epoch(10.0), epoch(14.0), epoch(16.0), epochs),
    )
    return Workload(
        "toy", "v100", arms, default_batch_size=64, max_epochs=10, max_power_watts=300.0
    )


class Scripted(FoldingPolicy):
    """Gives the choices it was told, then the last of them again, and keeps what it was shown."""

    name = "scripted"

    def __init__(self, *choices: tuple[int, float | None]) -> None:
        self.choices = list(choices)
        self.shown: list[Observation] = []

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> Learner:
        return _ScriptedLearner(problem, self)


class _ScriptedLearner(Learner):
    policy_name = "scripted"

    def __init__(self, problem: Problem, script: Scripted) -> None:
        super().__init__(problem)
        self._script = script

    def _learn(self, observation: Observation) -> None:
        self._script.shown.append(observation)

    def _choose(self, situation: Situation, seed: int) -> Choice:
        choices = self._script.choices
        size, threshold = choices.pop(0) if len(choices) > 1 else choices[0]
        return Choice(size, threshold, "As scripted.")


def test_the_first_run_of_an_arm_profiles_and_later_ones_do_not():
    history = simulate_job(workload(), Scripted((64, None)), recurrences=3, seed=0)
    assert history.cost_joules == [14.0 + 3 * 10.0, 40.0, 40.0]
    assert history.energy_joules == [22.0, 20.0, 20.0]
    assert history.reached == [True, True, True]


def test_a_threshold_pays_for_whole_epochs_at_the_best_limit():
    script = Scripted((64, 39.99), (64, 40.0))
    history = simulate_job(workload(), script, recurrences=1, seed=0)
    stopped, reached = script.shown
    assert (stopped.outcome, stopped.epochs) == (Outcome.COST_EXCEEDED, 3)
    assert (reached.outcome, reached.epochs) == (Outcome.REACHED, 4)
    assert history.cost_joules == [14.0 + 20.0 + 40.0]
    assert history.attempts == [2]


def test_an_attempt_that_cannot_pay_for_one_epoch_fails_at_no_cost_and_profiles_nothing():
    script = Scripted((64, 9.0), (64, None))
    history = simulate_job(workload(), script, recurrences=1, seed=0)
    assert (script.shown[0].epochs, script.shown[0].cost_joules) == (0, 0.0)
    assert history.cost_joules == [44.0]


def test_an_arm_that_never_reaches_the_target_ends_after_all_epochs():
    script = Scripted((64, None), (32, None))
    simulate_job(workload(epochs=(math.inf,)), script, recurrences=1, seed=0)
    assert [(o.outcome, o.epochs) for o in script.shown] == [
        (Outcome.MAX_EPOCHS, 10),
        (Outcome.REACHED, 3),
    ]


def test_a_recurrence_gives_up_after_its_attempts():
    history = simulate_job(workload(), Scripted((64, 1.0)), recurrences=2, seed=0, attempts=4)
    assert history.attempts == [4, 4]
    assert history.reached == [False, False]


def test_the_best_arm_pays_for_its_failures():
    hard = workload(epochs=(2.0, math.inf))
    assert hard.arm(64).expected_epochs(10) == 12.0  # 2 for the success, 10 for the failure before
    assert hard.best_arm.batch_size == 32
    assert hard.best_arm_cost_joules == 36.0
    assert hard.default_cost_joules == 12.0 * 16.0


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_simulation_is_a_function_of_its_seed(name):
    noisy = workload(epochs=(2.0, 4.0, 5.0, 9.0, math.inf))
    tasks = [Task(noisy, policy(name), 12, seed) for seed in range(4)]
    alone = list(simulate_many(tasks))
    assert list(simulate_many(tasks, processes=2)) == alone
    assert alone[0] != alone[1]


def test_the_simulated_problem_keeps_the_products_last_attempt_out_of_reach():
    assert problem_of(workload(), attempts=20).max_attempts == 21
    assert problem_of(workload()).default_batch_size == 64


def test_a_summary_counts_regret_harm_and_stuck_histories():
    histories = [
        simulate_job(workload(), Scripted((64, None)), recurrences=4, seed=0),
        simulate_job(workload(), Scripted((32, None)), recurrences=4, seed=0),
    ]
    summary = summarize(workload(), "scripted", histories, 4)
    assert (summary.cost_best_arm, summary.cost_default) == (4 * 36.0, 4 * 64.0)
    assert summary.cost_mean == (164.0 + 147.0) / 2
    assert summary.regret_mean == pytest.approx((155.5 - 144.0) / 36.0)
    assert (summary.worse_than_default, summary.stuck, summary.attempts_mean) == (0.0, 0.0, 4.0)
    assert regret_ratio(summary, summary) == 1.0
    with pytest.raises(ValueError, match="at least 5 recurrences"):
        summarize(workload(), "scripted", histories, 5)


def write_traces(folder: Path) -> None:
    rows = [
        "toy,net,32,sgd,.1,1,0.4,2",
        "toy,net,32,sgd,.1,1,0.5,3",
        "toy,net,32,sgd,.1,2,0.5,nan",
        "toy,net,48,sgd,.1,1,0.5,2",  # no power measurement
        "toy,net,64,sgd,.1,1,0.4,9",  # never at the target
        "toy,other,32,sgd,.1,1,0.5,1",
    ]
    (folder / "summary_train.csv").write_text(TRAIN + "\n".join(rows) + "\n")
    power = [
        "toy,net,32,sgd,100,2.2,90",
        "toy,net,32,sgd,200,2,180",
        "toy,net,64,sgd,100,3,100",
        "else,net,64,sgd,250,3,100",
    ]
    (folder / "summary_power_v100.csv").write_text(POWER + "\n".join(power) + "\n")


def test_traces_are_read_as_their_format_says(tmp_path):
    write_traces(tmp_path)
    (found,) = load_workloads(tmp_path, eta=0.5, jobs=JOBS)
    assert (found.name, found.gpu, found.batch_sizes) == ("toy", "v100", (32, 64))
    assert found.max_power_watts == 250.0  # the largest limit of the file
    small, large = found.arms
    assert small.target_epochs == (3.0, math.inf)
    assert large.target_epochs == (math.inf,)
    at_100_watts = 0.5 * 198 + 0.5 * 250 * 2.2  # less than the 430 J at 200 W
    assert small.best.cost_joules == pytest.approx(at_100_watts)
    assert small.best.energy_joules == pytest.approx(198.0)
    assert small.full_power.cost_joules == pytest.approx(430.0)
    assert small.profiling.cost_joules == pytest.approx((at_100_watts + 430.0) / 2)


def test_the_default_is_lowered_to_the_largest_batch_size_of_the_trace(tmp_path):
    write_traces(tmp_path)
    jobs = {"toy": TraceJob("net", "sgd", 0.5, 10, 4096, True)}
    assert load_workloads(tmp_path, jobs=jobs)[0].default_batch_size == 64


def test_a_folder_without_traces_says_what_is_missing(tmp_path):
    with pytest.raises(TraceError, match=r"summary_train\.csv is missing"):
        load_workloads(tmp_path)
    write_traces(tmp_path)
    (tmp_path / "jobs.json").write_text('{"toy": {"network": "net"}}')
    with pytest.raises(TraceError, match=r"jobs\.json"):
        load_workloads(tmp_path)
    (tmp_path / "jobs.json").unlink()
    with pytest.raises(TraceError, match="holds no workload"):
        load_workloads(tmp_path)  # the paper's jobs are not in it
