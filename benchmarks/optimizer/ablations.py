"""What each part of policy `structured` is worth: the policy without it.

python benchmarks/optimizer/ablations.py [--seeds 20] [--processes 2] [--write]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import RECURRENCES, slashed, table_of
from benchmarks.optimizer.shared import Effort, Folder, Result, Study, runs
from benchmarks.optimizer.variants import Variant
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.parameters import Parameters

_NEVER = 1e9
_FULL = "all of it"
VARIANTS = {
    _FULL: Variant(),
    "without the learning curve": Variant(curves=False),
    "without stopping early (only the cost limit)": Variant(stop_rule=False),
    "without the sweep": Variant(Parameters(sweep_reach=-1.0)),
    "without the budget": Variant(share=_NEVER),
    "without exploring again in the same recurrence": Variant(Parameters(explorations=1)),
    "without hints from stopped runs": Variant(Parameters(hint_weight=0.0)),
    "without drift detection": Variant(detector=False),
    "without the quadratic term": Variant(
        Parameters(epochs_curve=0.0, epochs_curve_sd=0.0, cost_curve_sd=0.0)
    ),
    "with twice the horizon": Variant(Parameters(horizon=10.0)),
    "without looking again at stopped arms": Variant(Parameters(patience=_NEVER)),
    "without pooling noise over arms": Variant(Parameters(run_sd_pool=0.0)),
    "with caution 0": Variant(Parameters(caution=0.0)),
}


def _measure(folders: Sequence[Folder], effort: Effort) -> Result:
    result: Result = {"seeds": effort.seeds, "folders": []}
    for folder in folders:
        policies = {"zeus": policy("zeus"), **VARIANTS}
        label = f"ablations, {folder.name}"
        found = runs(folder.workloads, policies, max(RECURRENCES), effort, label)
        lines = [
            {
                "name": name,
                **figures.summary(found[name], found["zeus"]),
                "change": figures.mean_ratio(found[name], found[_FULL], RECURRENCES),
                "interval": figures.interval(found[name], found[_FULL], RECURRENCES),
            }
            for name in VARIANTS
        ]
        result["folders"].append({"title": folder.title, "lines": lines})
    return result


def _text(result: Result) -> str:
    parts = [
        "## Without one part at a time",
        "",
        f"{result['seeds']} seeds. Ratio is to zeus. Change is the regret over that of the whole "
        "policy, geometric mean over pairs and N = 10, 20, 50, with its 95% interval: above 1 the "
        "part helps, and where the interval holds 1 these runs do not tell.",
        "",
    ]
    for folder in result["folders"]:
        parts += [f"### {folder['title']}", "", _table(folder["lines"]), ""]
    return "\n".join(parts)


_HEADER = (
    "",
    "ratio, N = 10 / 20 / 50",
    "change",
    "pairs over 1.05 x default",
    "worst",
    "pairs over 5% stuck",
    "stuck, mean",
)


def _table(lines: Sequence[Result]) -> str:
    return table_of(
        _HEADER,
        [
            [
                line["name"],
                slashed(line["ratios"]),
                "" if line["name"] == _FULL else _change(line),
                f"{line['harmed']} of {line['pairs']}",
                f"{line['worst']:.3f}",
                str(line["stuck"]),
                f"{100 * line['stuck_share']:.1f}%",
            ]
            for line in lines
        ],
    )


def _change(line: Result) -> str:
    low, high = line["interval"]
    return f"{line['change']:.3f} ({low:.3f} to {high:.3f})"


STUDY: Study = Study("ablations", 20, 2, _measure, _text)

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
