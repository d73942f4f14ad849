"""How much hangs on the numbers of policy `structured`.

    python benchmarks/optimizer/sensitivity.py [--seeds 15] [--processes 2] [--quick] [--write]

Random sets of `Parameters`: each number within a factor of two of its value,
log-uniform.  And from those sets, for each workload, the one that is best on all other
workloads of all folders.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import fields

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import RECURRENCES, slashed, table_of
from benchmarks.optimizer.shared import Effort, Folder, Result, Study, runs
from benchmarks.optimizer.variants import Variant
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.parameters import Parameters

SETS = 40
_QUICK_SETS = 6
_FACTOR = 2.0
_AT_MOST = 0.30
_OWN = "own"


def random_parameters(seed: int) -> Parameters:
    """Return a set of which each number lies within a factor of two of the product's."""
    stream = random.Random(f"parameters/{seed}")
    own = Parameters()
    found: dict[str, float | int] = {}
    for field in fields(Parameters):
        value = getattr(own, field.name)
        drawn = value * _FACTOR ** (2.0 * stream.random() - 1.0)
        found[field.name] = max(1, round(drawn)) if isinstance(value, int) else drawn
    return Parameters(**found)  # type: ignore[arg-type]  # numbers by name


def _measure(folders: Sequence[Folder], effort: Effort) -> Result:
    sets = _QUICK_SETS if effort.quick else SETS
    policies: dict[str, FoldingPolicy] = {"zeus": policy("zeus"), _OWN: Variant()}
    policies |= {str(i): Variant(random_parameters(i)) for i in range(sets)}
    result: Result = {"seeds": effort.seeds, "sets": sets, "folders": []}
    logs: dict[str, dict[tuple[str, int], list[list[float]]]] = {name: {} for name in policies}
    for place, folder in enumerate(folders):
        label = f"sensitivity, {folder.name}"
        found = runs(folder.workloads, policies, max(RECURRENCES), effort, label)
        part: Result = {
            name: figures.summary(found[name], found["zeus"]) for name in policies if name != "zeus"
        }
        result["folders"].append({"title": folder.title, "sets": part})
        for name in policies:
            for ours, zeus in zip(found[name], found["zeus"], strict=True):
                each = [math.log(figures.pair_ratio(ours, zeus, n)) for n in RECURRENCES]
                logs[name].setdefault((ours.workload.name, place), []).append(each)
    result["left_out"] = _left_out({n: v for n, v in logs.items() if n not in ("zeus", _OWN)})
    own = logs[_OWN]
    for line in result["left_out"]:
        line["own"] = _ratios(own[line["workload"], line["folder"]])
    return result


def _left_out(logs: dict[str, dict[tuple[str, int], list[list[float]]]]) -> list[Result]:
    """Return, per workload, what the set that is best on all others makes of it."""
    first = next(iter(logs.values()))
    lines = []
    for left in first:
        others = {
            name: [
                value
                for key, pairs in by_workload.items()
                if key != left
                for pair in pairs
                for value in pair
            ]
            for name, by_workload in logs.items()
        }
        best = min(others, key=lambda name: sum(others[name]))
        lines.append(
            {
                "workload": left[0],
                "folder": left[1],
                "set": best,
                "pairs": len(logs[best][left]),
                "ratios": _ratios(logs[best][left]),
            }
        )
    return lines


def _ratios(logs: Sequence[Sequence[float]]) -> list[float]:
    return [math.exp(sum(column) / len(column)) for column in zip(*logs, strict=True)]


def _text(result: Result) -> str:
    parts = [
        "## Other numbers",
        "",
        f"{result['sets']} random sets of the policy's numbers, each within a factor of two of its "
        f"value, log-uniform, all numbers at once; {result['seeds']} seeds. Ratio to zeus, "
        "geometric mean over the pairs of a folder; of that the quantiles over the sets.",
        "",
        _sets(result),
        "",
        "Leave one workload out: of the random sets, the one that is best on all other workloads "
        "of both folders (geometric mean over N = 10, 20, 50), on the workload that was left out; "
        "beside it the policy's own numbers on the same seeds.",
        "",
        table_of(
            ["workload", "left out, N = 10 / 20 / 50", "own numbers"],
            [
                [line["workload"], slashed(line["ratios"]), slashed(line["own"])]
                for line in result["left_out"]
            ],
        ),
        "",
    ]
    for place, folder in enumerate(result["folders"]):
        lines = [line for line in result["left_out"] if line["folder"] == place]
        means = [_means([line[which] for line in lines]) for which in ("ratios", "own")]
        parts += [
            f"Geometric mean over the workloads of {folder['title']}: left out "
            f"{slashed(means[0])}, own numbers {slashed(means[1])}.",
            "",
        ]
    return "\n".join(parts)


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [figures.geometric_mean(column) for column in zip(*rows, strict=True)]


def _sets(result: Result) -> str:
    rows = []
    for folder in result["folders"]:
        own = folder["sets"][_OWN]
        others = [each for name, each in folder["sets"].items() if name != _OWN]
        for place, n in enumerate(RECURRENCES):
            values = sorted(each["ratios"][place] for each in others)
            share = sum(value <= _AT_MOST for value in values) / len(values)
            rows.append(
                [
                    folder["title"],
                    str(n),
                    f"{own['ratios'][place]:.3f}",
                    *(f"{_quantile(values, q):.3f}" for q in (0.1, 0.5, 0.9)),
                    f"{values[-1]:.3f}",
                    f"{100 * share:.0f}%",
                ]
            )
    harms = [
        f"- {folder['title']}: pairs dearer than 1.05 times the default: "
        f"{folder['sets'][_OWN]['harmed']} with the own numbers, {_quantile(counts, 0.5):g} in the "
        f"median set, {counts[-1]} in the worst."
        for folder in result["folders"]
        for counts in [sorted(e["harmed"] for n, e in folder["sets"].items() if n != _OWN)]
    ]
    header = ["folder", "N", "own numbers", "10% quantile", "median", "90% quantile", "worst"]
    return table_of([*header, f"at most {_AT_MOST:.2f}"], rows) + "\n\n" + "\n".join(harms)


def _quantile(ascending: Sequence[float], share: float) -> float:
    place = share * (len(ascending) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (place - low) * (ascending[high] - ascending[low])


STUDY: Study = Study("sensitivity", 15, 2, _measure, _text)

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
