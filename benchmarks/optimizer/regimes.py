"""How the policies take a change of the job after 59 recurrences.

    python benchmarks/optimizer/regimes.py [--seeds 10] [--processes 2] [--write]

The epochs to the target are multiplied by exp(level + slope x log2(b / default)).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import Runs, between, table_of
from benchmarks.optimizer.shared import Effort, Folder, Result, Study, simulated
from benchmarks.optimizer.variants import Variant
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.simulate.regime import changed
from zeus_operator.simulate.single_job import History, simulate_changing_job
from zeus_operator.simulate.workload import Workload

CHANGES = ((0.7, 0.0), (-0.7, 0.0), (0.0, 0.35), (0.0, -0.35))
AT = 60
AFTER = 50
POLICIES: dict[str, FoldingPolicy] = {
    "zeus": policy("zeus"),
    "structured": policy("structured"),
    "structured without the detector": Variant(detector=False),
}


@dataclass(frozen=True)
class _Task:
    workload: Workload
    after: Workload
    policy: FoldingPolicy
    seed: int

    def run(self) -> History:
        regimes = ((1, self.workload), (AT, self.after))
        return simulate_changing_job(regimes, self.policy, AT + AFTER - 1, self.seed)


def _default_always_reaches(workload: Workload) -> bool:
    epochs = workload.arm(workload.default_batch_size).target_epochs
    return max(epochs) <= workload.max_epochs


def _measure(folders: Sequence[Folder], effort: Effort) -> Result:
    result: Result = {"seeds": effort.seeds, "folders": []}
    for folder in folders:
        found = _cases(folder, effort)
        lines = [
            _line(
                f"exp({level:g})" if level else f"exp({slope:g} x)",
                [c for c in found if c[0] == (level, slope)],
            )
            for level, slope in CHANGES
        ]
        lines.append(_line("all", found))
        result["folders"].append(
            {"title": folder.title, "lines": [line for line in lines if line["cases"]]}
        )
    return result


_Case = tuple[tuple[float, float], dict[str, Runs]]


def _cases(folder: Folder, effort: Effort) -> list[_Case]:
    """Return, per change and pair, the recurrences after the change under each policy."""
    pairs = [
        (change, workload, after)
        for change in CHANGES
        for workload in folder.workloads
        if _default_always_reaches(after := changed(workload, *change))
    ]
    tasks = [
        _Task(workload, after, chosen, seed)
        for _, workload, after in pairs
        for chosen in POLICIES.values()
        for seed in range(effort.seeds)
    ]
    found = iter(simulated(tasks, effort, f"regimes, {folder.name}"))
    cases = []
    for change, _, after in pairs:
        each = {}
        for name in POLICIES:
            histories = [next(found) for _ in range(effort.seeds)]
            costs = np.array([h.cost_joules[AT - 1 :] for h in histories])
            sizes = np.array([h.batch_sizes[AT - 1 :] for h in histories])
            each[name] = Runs(after, costs, sizes)
        cases.append((change, each))
    return cases


def _line(name: str, cases: Sequence[_Case]) -> Result:
    if not cases:
        return {"name": name, "cases": 0}
    regrets = {
        policy_name: [float(each[policy_name].regrets(AFTER).mean()) for _, each in cases]
        for policy_name in POLICIES
    }
    zeus = [each["zeus"] for _, each in cases]
    means = {policy_name: sum(values) / len(values) for policy_name, values in regrets.items()}
    line: Result = {"name": name, "cases": len(cases), "means": means, "ratios": {}}
    for policy_name in POLICIES:
        if policy_name == "zeus":
            continue
        ours = [each[policy_name] for _, each in cases]
        line["ratios"][policy_name] = [
            means[policy_name] / means["zeus"],
            figures.mean_ratio(ours, zeus, [AFTER]),
            *figures.interval(ours, zeus, [AFTER]),
        ]
    ours, without = ([each[name] for _, each in cases] for name in list(POLICIES)[1:])
    line["dearer"] = sum(
        math.log(figures.pair_ratio(a, b, AFTER)) > 0.0 for a, b in zip(ours, without, strict=True)
    )
    return line


def _text(result: Result) -> str:
    parts = [
        "## After a change of the job",
        "",
        f"{result['seeds']} seeds. At recurrence {AT} the epochs to the target are multiplied by "
        f"the factor, x = log2(batch size / default); regret over the {AFTER} recurrences from "
        "there on, against the best arm after the change. Only pairs whose default always reaches "
        "the target after it.",
        "",
    ]
    for folder in result["folders"]:
        parts += [f"### {folder['title']}", "", _table(folder["lines"]), ""]
    return "\n".join(parts)


_HEADER = (
    "factor",
    "pairs",
    "mean regret: zeus",
    "structured",
    "without the detector",
    "structured / zeus: of means",
    "geometric mean of ratios (95%)",
    "without the detector / zeus: of means",
    "geometric mean of ratios",
    "detector costs more in",
)


def _table(lines: Sequence[Result]) -> str:
    with_it, without = list(POLICIES)[1:]
    rows = []
    for line in lines:
        first, second = line["ratios"][with_it], line["ratios"][without]
        rows.append(
            [
                line["name"],
                str(line["cases"]),
                *(f"{line['means'][name]:.2f}" for name in POLICIES),
                f"{first[0]:.3f}",
                f"{first[1]:.3f} ({between(first[2:])})",
                f"{second[0]:.3f}",
                f"{second[1]:.3f}",
                f"{line['dearer']} of {line['cases']}",
            ]
        )
    return table_of(
        _HEADER,
        rows,
    )


STUDY: Study = Study("regimes", 10, 1, _measure, _text)

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
