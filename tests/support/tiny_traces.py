"""Trace folders and workloads small enough to count by hand, and a policy that does as told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.simulate.workload import EpochCost, TraceArm, Workload

TRAIN_HEADER = "dataset,network,batch_size,optimizer,learning_rate,run,target_metric,target_epoch"
POWER_HEADER = "dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power"
JOB = {
    "network": "net",
    "optimizer": "sgd",
    "target": 0.5,
    "max_epochs": 10,
    "default_batch_size": 64,
    "higher_is_better": True,
}

# One batch size whose runs all take 3 epochs.  Costs are at eta 0.5, where 100 W is best.
ONE_ARM_TRAIN = (
    "toy,net,64,sgd,.1,1,0.4,2",
    "toy,net,64,sgd,.1,1,0.5,3",
)
ONE_ARM_POWER = (
    "toy,net,64,sgd,100,2,50",  # 100 J, 2 s: cost 0.5 x 100 + 0.5 x 200 x 2 = 250 J
    "toy,net,64,sgd,200,1.5,160",  # 240 J, 1.5 s: cost 0.5 x 240 + 0.5 x 200 x 1.5 = 270 J
)


def write_folder(
    folder: Path,
    train: Iterable[str] = ONE_ARM_TRAIN,
    power: Iterable[str] = ONE_ARM_POWER,
    job: dict[str, object] | None = JOB,
    gpu: str = "v100",
) -> Path:
    """Write a trace folder of the workload `toy`, with a jobs.json unless `job` is None."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "summary_train.csv", TRAIN_HEADER, train)
    _write(folder / f"summary_power_{gpu}.csv", POWER_HEADER, power)
    if job is not None:
        (folder / "jobs.json").write_text(json.dumps({"toy": job}))
    return folder


def write_noisy_folder(folder: Path) -> Path:
    """Write a folder of two workloads and two GPU models, with noise and an arm that fails."""
    train, power = [], []
    for name, shift in (("toy", 0), ("other", 1)):
        for size, epochs in ((32, (3, 4, 6)), (64, (4, 6, 7)), (128, (5, 9, "nan"))):
            for run, epoch in enumerate(epochs, start=1):
                late = epoch if epoch == "nan" else epoch + shift
                train += [f"{name},net,{size},sgd,.1,{run},0.5,{late}"]
        for size, seconds in ((32, 4), (64, 3), (128, 2.5)):
            power += [
                f"{name},net,{size},sgd,100,{seconds},80",
                f"{name},net,{size},sgd,200,{0.9 * seconds},150",
            ]
    write_folder(folder, train, power)
    _write(folder / "summary_power_a40.csv", POWER_HEADER, power)
    (folder / "jobs.json").write_text(json.dumps({"toy": JOB, "other": JOB}))
    return folder


def write_groups_file(path: Path, *rows: str) -> Path:
    """Write a file of job groups: `group,dataset,start,end,ratio` rows."""
    _write(path, "group,dataset,start_time,end_time,runtime_ratio", rows)
    return path


def epoch(cost: float) -> EpochCost:
    """Return an epoch of that cost, half as much energy and a tenth as much time."""
    return EpochCost(cost, cost / 2, cost / 10)


def workload(
    epochs: tuple[float, ...] = (4.0,), small_epochs: tuple[float, ...] = (3.0,)
) -> Workload:
    """Arms 32 and 64: 12 and 10 J an epoch, profiling 15 and 14 J, full power 18 and 16 J."""
    arms = (
        TraceArm(32, epoch(12.0), epoch(15.0), epoch(18.0), small_epochs),
        TraceArm(64, epoch(10.0), epoch(14.0), epoch(16.0), epochs),
    )
    return Workload(
        "toy", "v100", arms, default_batch_size=64, max_epochs=10, max_power_watts=300.0
    )


class Scripted(FoldingPolicy):
    """Gives the choices it was told, then the last of them again; keeps what it was shown."""

    name = "scripted"

    def __init__(self, *choices: tuple[int, float | None]) -> None:
        self.choices = list(choices)
        self.observations: list[Observation] = []
        self.situations: list[Situation] = []

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> Learner:
        """Return a learner that reports to this policy."""
        return _ScriptedLearner(problem, self)


class _ScriptedLearner(Learner):
    policy_name = "scripted"

    def __init__(self, problem: Problem, script: Scripted) -> None:
        super().__init__(problem)
        self._script = script

    def _learn(self, observation: Observation) -> None:
        self._script.observations.append(observation)

    def _choose(self, situation: Situation, seed: int) -> Choice:
        self._script.situations.append(situation)
        choices = self._script.choices
        size, threshold = choices.pop(0) if len(choices) > 1 else choices[0]
        return Choice(size, threshold, "As scripted.")


def _write(path: Path, header: str, rows: Iterable[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")
