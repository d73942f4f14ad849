"""What bounding the cost of exploring costs, and how well the bound holds.

    python benchmarks/optimizer/bounds.py [--seeds 24] [--processes 2] [--write]

`spec.exploration` in expectation with shares from 2 to 20 %, and in every history.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import HARM, RECURRENCES, Runs, slashed, table_of
from benchmarks.optimizer.shared import Effort, Folder, Result, Study, runs, simulated
from benchmarks.optimizer.variants import Variant
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.types import Choice
from zeus_operator.simulate.attempt import Recordings
from zeus_operator.simulate.single_job import ATTEMPTS, History
from zeus_operator.simulate.workload import Workload

_DEFAULT = "always the default at full power"
_ZEUS = "zeus, which has no bound"
_EXTREME = 99.0
VARIANTS = {
    "2% in expectation": Variant(share=0.02),
    "5% in expectation": Variant(share=0.05),
    "10% in expectation": Variant(share=0.1),
    "20% in expectation": Variant(share=0.2),
    "5% in every history": Variant(share=0.05, every_history=True),
    "10% in every history": Variant(share=0.1, every_history=True),
    "20% in every history": Variant(share=0.2, every_history=True),
}


@dataclass(frozen=True)
class _DefaultTask:
    """The default at full power, on the luck that the policies have."""

    workload: Workload
    seed: int

    def run(self) -> History:
        recordings = Recordings(self.workload, self.seed)
        size = self.workload.default_batch_size
        epoch = self.workload.arm(size).full_power
        history = History()
        for _ in range(max(RECURRENCES)):
            cost = 0.0
            for _ in range(ATTEMPTS):
                attempt = recordings.attempt(Choice(size, None, ""), profiles=False)
                cost += attempt.epochs * epoch.cost_joules
                if attempt.reached:
                    break
            history.cost_joules.append(cost)
            history.batch_sizes.append(size)
        return history


def _over(found: Sequence[Runs]) -> list[float]:
    """Return the share of the histories over 1.05 times the default's expected cost, at each N."""
    return [
        float(
            np.mean(
                [
                    (
                        each.costs[:, :n].sum(axis=1) > HARM * n * each.workload.default_cost_joules
                    ).mean()
                    for each in found
                ]
            )
        )
        for n in RECURRENCES
    ]


def _extreme(found: Sequence[Runs]) -> list[float]:
    """Return the 99th percentile over all histories of cost / expected cost of the default."""
    return [
        float(
            np.percentile(
                np.concatenate(
                    [
                        r.costs[:, :n].sum(axis=1) / (n * r.workload.default_cost_joules)
                        for r in found
                    ]
                ),
                _EXTREME,
            )
        )
        for n in RECURRENCES
    ]


def _measure(folders: Sequence[Folder], effort: Effort) -> Result:
    result: Result = {"seeds": effort.seeds, "folders": []}
    for folder in folders:
        label = f"bounds, {folder.name}"
        policies = {_ZEUS: policy("zeus"), **VARIANTS}
        found = runs(folder.workloads, policies, max(RECURRENCES), effort, label)
        tasks = [_DefaultTask(w, seed) for w in folder.workloads for seed in range(effort.seeds)]
        each = iter(simulated(tasks, effort, f"{label}, the default"))
        default = [Runs.of(w, [next(each) for _ in range(effort.seeds)]) for w in folder.workloads]
        lines = []
        for name, ours in {_DEFAULT: default, **found}.items():
            worst = max(ours, key=lambda r: r.worst[0])
            lines.append(
                {
                    "name": name,
                    **figures.summary(ours, found[_ZEUS]),
                    "cost": [
                        figures.geometric_mean([r.cost_ratio(n) for r in ours]) for n in RECURRENCES
                    ],
                    "worst_pair": worst.name,
                    "over": _over(ours),
                    "extreme": _extreme(ours),
                }
            )
        result["folders"].append({"title": folder.title, "lines": lines})
    return result


def _text(result: Result) -> str:
    parts = [
        "## What the bound on exploring costs",
        "",
        f"{result['seeds']} seeds, N = 10 / 20 / 50. Worst is the pair of highest mean cost over "
        "the default's at any N from 10 to 50. Histories over 1.05 are those that cost more than "
        "1.05 times what the default is expected to; the default's own runs vary too, so the first "
        "line shows how many are over it with no exploring at all. The last column is the 99th "
        "percentile over all histories of the folder.",
        "",
    ]
    for folder in result["folders"]:
        rows = [
            [
                line["name"],
                "" if line["name"] == _DEFAULT else slashed(line["ratios"]),
                slashed(line["cost"]),
                f"{line['worst']:.3f}, {line['worst_pair']}",
                f"{line['harmed']} of {line['pairs']}",
                " / ".join(f"{100 * share:.1f}%" for share in line["over"]),
                slashed(line["extreme"], ".2f"),
            ]
            for line in folder["lines"]
        ]
        header = ["exploring may cost", "ratio to zeus", "cost / default", "worst pair, mean"]
        header += ["pairs over 1.05", "histories over 1.05", "99th percentile"]
        parts += [f"### {folder['title']}", "", table_of(header, rows), ""]
    return "\n".join(parts)


STUDY: Study = Study("bounds", 24, 2, _measure, _text)

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
