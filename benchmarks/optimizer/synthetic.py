"""The policies on synthetic workloads, which nothing was chosen on.

    python benchmarks/optimizer/synthetic.py [--seeds 20] [--processes 2] [--write]

`generator.py` says how the workloads are drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import RECURRENCES, between, table_of
from benchmarks.optimizer.generator import synthetic_workloads
from benchmarks.optimizer.shared import Effort, Folder, Result, Study, runs
from zeus_operator.optimizer import POLICY_NAMES, policy

WORKLOADS = 40


def _measure(folders: Sequence[Folder], effort: Effort) -> Result:
    del folders
    workloads = synthetic_workloads(WORKLOADS)
    policies = {name: policy(name) for name in POLICY_NAMES}
    found = runs(workloads, policies, max(RECURRENCES), effort, "synthetic")
    zeus, ours = found["zeus"], found["structured"]
    return {
        "seeds": effort.seeds,
        "workloads": len(workloads),
        "ratios": [figures.mean_ratio(ours, zeus, [n]) for n in RECURRENCES],
        "intervals": [figures.interval(ours, zeus, [n]) for n in RECURRENCES],
        "above": [
            sum(figures.pair_ratio(a, b, n) > 1.0 for a, b in zip(ours, zeus, strict=True))
            for n in RECURRENCES
        ],
        "cost": {
            name: [figures.geometric_mean([r.cost_ratio(n) for r in each]) for n in RECURRENCES]
            for name, each in found.items()
        },
        "best": figures.geometric_mean(
            [w.best_arm_cost_joules / w.default_cost_joules for w in workloads]
        ),
        "policies": {name: figures.summary(each, zeus) for name, each in found.items()},
        "harmed": {
            name: [f"{r.workload.name} ({r.worst[0]:.3f})" for r in figures.harmed(each)]
            for name, each in found.items()
        },
        "stuck": {
            name: [f"{r.workload.name} ({100 * r.stuck:.0f}%)" for r in figures.stuck(each)]
            for name, each in found.items()
        },
    }


def _text(result: Result) -> str:
    count = result["workloads"]
    rows = [
        ["regret of structured / zeus", *(f"{value:.3f}" for value in result["ratios"])],
        ["its 95% interval", *(between(bounds) for bounds in result["intervals"])],
        ["workloads where structured regrets more", *(f"{n} of {count}" for n in result["above"])],
        *(
            [f"cost of {name} / default", *(f"{value:.4f}" for value in values)]
            for name, values in result["cost"].items()
        ),
        ["cost of the best arm from the start / default"] + [f"{result['best']:.4f}"] * 3,
    ]
    lines = [
        "## Synthetic workloads",
        "",
        f"{count} synthetic workloads, {result['seeds']} seeds: no training run stands behind "
        "them, and no number of a policy was chosen on them. `benchmarks/optimizer/generator.py` "
        "says how they are drawn.",
        "",
        table_of(
            ["synthetic, geometric mean over the workloads", *(f"N={n}" for n in RECURRENCES)],
            rows,
        ),
        "",
    ]
    for name in ("structured", "zeus"):
        whole = result["policies"][name]
        lines += [
            f"- {name}, dearer than 1.05 times the default at some N from 10 to 50: "
            f"{_listed(result['harmed'][name])}.",
            f"- {name}, over 5% of the histories stuck: {_listed(result['stuck'][name])}; "
            f"{100 * whole['stuck_share']:.1f}% on average.",
        ]
    return "\n".join([*lines, ""])


def _listed(found: Sequence[str]) -> str:
    return f"{len(found)}: {', '.join(found)}" if found else "none"


STUDY: Study = Study("synthetic", 20, 2, _measure, _text, sources=("generator",))

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
