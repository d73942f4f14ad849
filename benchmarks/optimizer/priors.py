"""Whether priors learned from a folder's other workloads pay: a study, not part of the product.

    python benchmarks/optimizer/priors.py [--seeds 40] [--processes 2] [--write]

For each workload, from all other workloads of its folder: least-squares slopes of
ln(epochs) and ln(cost per epoch) over log2(batch size), between -3 and +2 doublings from
the default, and the spread of ln(epochs) between runs; shrunk towards the product's prior,
which counts as much as five workloads.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import RECURRENCES, Runs, between, slashed, table_of
from benchmarks.optimizer.shared import Effort, Folder, Result, Study, runs, simulated
from benchmarks.optimizer.variants import Variant
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.simulate.single_job import Task
from zeus_operator.simulate.workload import TraceArm, Workload

_PRIOR_WEIGHT = 5.0  # workloads
_REACH = (-3.0, 2.0)  # doublings from the default
_ROUNDING = 1e-9

_Value = Callable[[Workload, TraceArm], float | None]


def learned(workload: Workload, all_of_them: Sequence[Workload]) -> Parameters:
    """Return the product's numbers with those that the others of `all_of_them` tell."""
    others = [w for w in all_of_them if w.name != workload.name and w.gpu == workload.gpu]
    own = Parameters()
    slopes = [s for w in others if (s := _slope(w, _log_epochs)) is not None]
    costs = [s for w in others if (s := _slope(w, _log_cost)) is not None]
    spreads = [_run_variance(w) for w in others]
    slope = _shrunk(own.epochs_slope, slopes)
    squares = [(s - slope) ** 2 for s in slopes]
    return replace(
        own,
        epochs_slope=slope,
        epochs_slope_sd=math.sqrt(_shrunk(own.epochs_slope_sd**2, squares)),
        run_sd=math.sqrt(_shrunk(own.run_sd**2, spreads)),
        cost_slope=_shrunk(own.cost_slope, costs),
    )


def _shrunk(prior: float, values: Sequence[float]) -> float:
    return (_PRIOR_WEIGHT * prior + sum(values)) / (_PRIOR_WEIGHT + len(values))


def _log_epochs(workload: Workload, arm: TraceArm) -> float | None:
    reached = _reached(workload, arm)
    return fmean(reached) if reached else None


def _log_cost(workload: Workload, arm: TraceArm) -> float | None:
    del workload
    return math.log(arm.best.cost_joules)


def _reached(workload: Workload, arm: TraceArm) -> list[float]:
    return [math.log(e) for e in arm.target_epochs if e <= workload.max_epochs]


def _run_variance(workload: Workload) -> float:
    """Return the variance of ln(epochs) between the runs of an arm."""
    lists = [_reached(workload, arm) for arm in workload.arms]
    squares = sum(sum((v - fmean(values)) ** 2 for v in values) for values in lists if values)
    return squares / max(sum(max(len(values) - 1, 0) for values in lists), 1)


def _slope(workload: Workload, of: _Value) -> float | None:
    points = []
    for arm in workload.arms:
        doublings = math.log2(arm.batch_size / workload.default_batch_size)
        value = of(workload, arm)
        if value is not None and _REACH[0] - _ROUNDING <= doublings <= _REACH[1] + _ROUNDING:
            points.append((doublings, value))
    if len(points) < 2:
        return None
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])


def _measure(folders: Sequence[Folder], effort: Effort) -> Result:
    result: Result = {"seeds": effort.seeds, "folders": []}
    for folder in folders:
        label = f"priors, {folder.name}"
        plain = {"zeus": policy("zeus"), "plain": Variant()}
        found = runs(folder.workloads, plain, max(RECURRENCES), effort, label)
        parameters = [learned(w, folder.workloads) for w in folder.workloads]
        tasks = [
            Task(w, Variant(own), max(RECURRENCES), seed)
            for w, own in zip(folder.workloads, parameters, strict=True)
            for seed in range(effort.seeds)
        ]
        each = iter(simulated(tasks, effort, f"{label}, learned"))
        ours = [Runs.of(w, [next(each) for _ in range(effort.seeds)]) for w in folder.workloads]
        result["folders"].append(
            {
                "title": folder.title,
                "plain": figures.summary(found["plain"], found["zeus"]),
                "learned": figures.summary(ours, found["zeus"]),
                "change": [figures.mean_ratio(ours, found["plain"], [n]) for n in RECURRENCES],
                "intervals": [figures.interval(ours, found["plain"], [n]) for n in RECURRENCES],
                "numbers": {
                    name: [getattr(p, name) for p in parameters]
                    for name in ("epochs_slope", "epochs_slope_sd", "run_sd", "cost_slope")
                },
            }
        )
    return result


_HEADER = (
    "folder",
    "priors",
    "ratio to zeus, N = 10 / 20 / 50",
    "pairs over 1.05 x default",
    "worst",
    "pairs over 5% stuck",
)


def _text(result: Result) -> str:
    rows = []
    verdicts = []
    for folder in result["folders"]:
        for name in ("plain", "learned"):
            line = folder[name]
            rows.append(
                [
                    folder["title"],
                    {"plain": "the product's", "learned": "learned from the others"}[name],
                    slashed(line["ratios"]),
                    f"{line['harmed']} of {line['pairs']}",
                    f"{line['worst']:.3f}",
                    str(line["stuck"]),
                ]
            )
        change = ", ".join(
            f"{value:.3f} ({between(bounds)}) at N={n}"
            for n, value, bounds in zip(
                RECURRENCES, folder["change"], folder["intervals"], strict=True
            )
        )
        gains = sum(high < 1.0 for _, high in folder["intervals"])
        losses = sum(low > 1.0 for low, _ in folder["intervals"])
        verdicts.append(
            f"- {folder['title']}: regret over that with the product's priors {change}. Surely "
            f"lower at {gains} and surely higher at {losses} of {len(RECURRENCES)}. Learned: "
            + ", ".join(
                f"{name} {min(values):.2f} to {max(values):.2f}"
                for name, values in folder["numbers"].items()
            )
            + "."
        )
    pays = all(folder["intervals"][0][1] < 1.0 for folder in result["folders"])
    return "\n".join(
        [
            "## Priors from other jobs",
            "",
            f"A study; the product does not do this. {result['seeds']} seeds. Slopes and spread "
            "come from all other workloads of the folder, the product's prior counting as five of "
            "them.",
            "",
            table_of(
                _HEADER,
                rows,
            ),
            "",
            *verdicts,
            "",
            "Kept in the product only if the regret is surely lower at N=10 in every folder: "
            + ("it is." if pays else "it is not."),
            "",
        ]
    )


STUDY: Study = Study("priors", 40, 2, _measure, _text)

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
