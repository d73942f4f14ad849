"""What all studies of the optimizer share: trace folders, simulations, kept results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from benchmarks.optimizer.figures import Runs
from zeus_operator.cli.simulate_progress import SimulationProgress
from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.simulate.pool import Simulation, simulate_many
from zeus_operator.simulate.single_job import History, Task
from zeus_operator.simulate.traces import TraceError, Workload, load_workloads

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "optimizer"
VARIABLE = "ZEUS_TRACES"
_STATE = (
    "operator/zeus_operator/optimizer/*.py",
    "operator/zeus_operator/simulate/*.py",
    "zeus_runtime/cost.py",
    "zeus_runtime/protocol.py",
    "zeus_runtime/stopping.py",
    "benchmarks/optimizer/figures.py",
    "benchmarks/optimizer/shared.py",
    "benchmarks/optimizer/variants.py",
)

Result = dict[str, Any]
"""What a study found: JSON."""
R = TypeVar("R")


@dataclass(frozen=True)
class Folder:
    """The workloads of one trace folder.

    Args:
        published: its jobs are those of the paper; the others come with a jobs file.
    """

    name: str
    published: bool
    workloads: tuple[Workload, ...]

    @property
    def title(self) -> str:
        """Return the folder's name with whose it is."""
        return f"{self.name} ({'published' if self.published else 'ours'})"


@dataclass(frozen=True)
class Effort:
    """How much a study simulates.

    Args:
        seeds: histories of each pair and policy.
        processes: that share the work.
        quick: settle for less, to see whether the study runs.
    """

    seeds: int
    processes: int = 1
    quick: bool = False


@dataclass(frozen=True)
class Study:
    """One part of the page.

    Args:
        name: of its file.
        seeds, quick_seeds: histories of each pair and policy.
        measure: simulates; what it returns has the text "problems" where something is
            not as it must be, one a line.
        text: the section of the page, from what `measure` returned.
        sources: other files here that its figures come from.
    """

    name: str
    seeds: int
    quick_seeds: int
    measure: Callable[[Sequence[Folder], Effort], Result]
    text: Callable[[Result], str]
    sources: tuple[str, ...] = ()


def load_folders() -> tuple[Folder, ...]:
    """Return the folders that the environment names.

    Raises:
        TraceError: it names none, or one can't be read.
    """
    paths = [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    if not paths:
        raise TraceError(f"{VARIABLE} does not name a trace folder: nothing to measure")
    return tuple(
        Folder(path.name, not (path / "jobs.json").exists(), tuple(load_workloads(path)))
        for path in paths
    )


def simulated(tasks: Sequence[Simulation[R]], effort: Effort, label: str) -> list[R]:
    """Return what each task gives, in their order, with progress on stderr."""
    found = []
    with SimulationProgress(label, Console(stderr=True)) as progress:
        for result in simulate_many(tasks, effort.processes):
            found.append(result)
            progress(len(found), len(tasks))
    return found


def histories(
    workloads: Sequence[Workload],
    policies: Mapping[str, FoldingPolicy],
    recurrences: int,
    effort: Effort,
    label: str,
) -> dict[str, list[list[History]]]:
    """Simulate each workload under each policy, on the same luck.

    Returns:
        Per policy, in the order of the workloads: the histories by seed.
    """
    tasks = [
        Task(workload, policy, recurrences, seed)
        for policy in policies.values()
        for workload in workloads
        for seed in range(effort.seeds)
    ]
    found = iter(simulated(tasks, effort, label))
    return {
        name: [[next(found) for _ in range(effort.seeds)] for _ in workloads] for name in policies
    }


def runs(
    workloads: Sequence[Workload],
    policies: Mapping[str, FoldingPolicy],
    recurrences: int,
    effort: Effort,
    label: str,
) -> dict[str, list[Runs]]:
    """As `histories`, as figures: per policy, in the order of the workloads."""
    return {
        name: [Runs.of(w, each) for w, each in zip(workloads, lists, strict=True)]
        for name, lists in histories(workloads, policies, recurrences, effort, label).items()
    }


def state(study: Study) -> str:
    """Return a digest of all that the figures of a study come from: programs and measurements."""
    own = (f"benchmarks/optimizer/{name}.py" for name in (study.name, *study.sources))
    parts = (*_STATE, *own)
    files = [file for part in parts for file in sorted(ROOT.glob(part))]
    for name in os.environ.get(VARIABLE, "").split(os.pathsep):
        folder = Path(name)
        files += sorted([*folder.glob("summary_*.csv"), *folder.glob("jobs.json")])
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def keep(name: str, effort: Effort, of_state: str, result: Result) -> None:
    """Keep what a study found for the page."""
    KEPT.mkdir(parents=True, exist_ok=True)
    whole = {"state": of_state, "seeds": effort.seeds, "quick": effort.quick, "result": result}
    (KEPT / f"{name}.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")


def kept(study: Study, of_state: str, *, quick: bool) -> Result | None:
    """Return what a study found for the same state, with as many seeds as it needs; else None."""
    try:
        whole = json.loads((KEPT / f"{study.name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    fits = (
        whole["state"] == of_state
        and (quick or not whole["quick"])
        and whole["seeds"] >= (study.quick_seeds if quick else study.seeds)
    )
    return whole["result"] if fits else None
