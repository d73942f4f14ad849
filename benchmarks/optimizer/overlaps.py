"""Runs that overlap: groups of recurring runs in time, by synthetic arrivals.

python benchmarks/optimizer/overlaps.py [--seeds 4] [--processes 2] [--write]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import table_of
from benchmarks.optimizer.shared import Effort, Folder, Result, Study
from zeus_operator.cli.simulate_progress import SimulationProgress
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.simulate import study
from zeus_operator.simulate.arrivals import ArrivalProcess, synthetic_groups

LOADS = (0.5, 1.5)
_GROUPS_PER_WORKLOAD = 8
_RUNS = 30.0


def _measure(folders: Sequence[Folder], effort: Effort) -> Result:
    result: Result = {"seeds": effort.seeds, "lines": []}
    policies = [policy(name) for name in POLICY_NAMES]
    for folder in folders:
        names = sorted({workload.name for workload in folder.workloads})
        for load in LOADS:
            count = _GROUPS_PER_WORKLOAD * len(names)
            process = ArrivalProcess(groups=count, runs=_RUNS, load=load)
            groups = synthetic_groups(names, process)
            label = f"overlaps, {folder.name}, load {load:g}"
            with SimulationProgress(label, Console(stderr=True)) as progress:
                found = study.compare_groups(
                    folder.workloads,
                    policies,
                    groups,
                    study.Effort(effort.seeds, effort.processes),
                    progress,
                )
            costs = {
                name: [s.cost_mean / s.cost_default for s in found if s.policy == name]
                for name in POLICY_NAMES
            }
            runs = sum(len(group.runs) for group in groups)
            result["lines"].append(
                {
                    "title": folder.title,
                    "load": load,
                    "groups": count,
                    "runs": runs,
                    "overlapping": sum(group.overlapping_runs for group in groups) / runs,
                    "pairs": len(folder.workloads),
                    "cost": {n: figures.geometric_mean(each) for n, each in costs.items()},
                    "worst": {n: max(each) for n, each in costs.items()},
                    "harmed": {n: sum(v > figures.HARM for v in each) for n, each in costs.items()},
                    "failed": {
                        name: sum(s.failed_mean for s in found if s.policy == name)
                        for name in POLICY_NAMES
                    },
                }
            )
    return result


def _text(result: Result) -> str:
    rows = [
        [
            line["title"],
            f"{line['load']:g}",
            f"{line['groups']}, {line['runs']}",
            f"{100 * line['overlapping']:.0f}%",
            *(f"{line['cost'][name]:.3f}" for name in POLICY_NAMES),
            *(f"{line['worst'][name]:.3f}" for name in POLICY_NAMES),
            *(f"{line['harmed'][name]} of {line['pairs']}" for name in POLICY_NAMES),
        ]
        for line in result["lines"]
    ]
    return "\n".join(
        [
            "## Overlapping runs",
            "",
            f"{result['seeds']} seeds. Groups of about {_RUNS:g} runs, each a job that starts "
            "without any history, arrive by a synthetic process (`zeusctl simulate-arrivals`); at "
            "the higher load most runs start before an earlier one has ended. Cost of all runs "
            "over that of the default at full power, geometric mean over the pairs.",
            "",
            table_of(
                ["folder", "load", "groups, runs", "overlapping runs"]
                + [f"cost {name}" for name in POLICY_NAMES]
                + [f"worst pair {name}" for name in POLICY_NAMES]
                + [f"pairs over 1.05 {name}" for name in POLICY_NAMES],
                rows,
            ),
            "",
        ]
    )


STUDY: Study = Study("overlaps", 4, 1, _measure, _text)

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
