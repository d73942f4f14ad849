"""The main table: both policies on recorded training runs, and the page of all studies.

    python benchmarks/optimizer/run.py [--seeds 200] [--processes 2] [--all] [--write]

The trace folders come from ZEUS_TRACES (several are joined as in PATH).  `--all` runs
the other studies as well, `--write` does and writes the page; results kept in
`build/optimizer` for the same state of the program are used again, unless `--fresh`.
Exits with 1 where the baseline's figures do not agree with those of the published
rules (within 2% and two standard errors).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.optimizer import figures
from benchmarks.optimizer.figures import RECURRENCES, Runs, between, slashed, table_of
from benchmarks.optimizer.shared import Effort, Folder, Result, Study, simulated
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.simulate.single_job import History, Task
from zeus_operator.simulate.summary import Summary, summarize
from zeus_operator.simulate.traces import Workload

LONG = 200
_SHARE_OF_LONG = 4  # one history in so many goes on to N = 200, which takes four times as long

# Mean regret of the published policy under the published simulation rules (2,000 seeds) and its
# standard error, at N = 10, 20 and 50; and the best arm.
EXPECTED: dict[tuple[str, str], tuple[tuple[tuple[float, float], ...], int]] = {
    ("cifar100", "a40"): (((9.299, 0.017), (9.483, 0.018), (9.765, 0.021)), 128),
    ("cifar100", "v100"): (((8.875, 0.022), (9.065, 0.023), (9.374, 0.025)), 128),
    ("imagenet", "a40"): (((3.843, 0.009), (4.128, 0.009), (4.581, 0.013)), 256),
    ("imagenet", "v100"): (((3.703, 0.009), (3.936, 0.010), (4.370, 0.014)), 360),
    ("movielens-1m", "a40"): (((10.419, 0.034), (11.893, 0.036), (12.682, 0.050)), 16384),
    ("movielens-1m", "v100"): (((12.997, 0.039), (13.929, 0.043), (14.493, 0.056)), 16384),
    ("sentiment140", "a40"): (((4.400, 0.001), (4.417, 0.002), (4.423, 0.002)), 128),
    ("sentiment140", "v100"): (((1.692, 0.0), (1.694, 0.0), (1.694, 0.0)), 64),
}


@dataclass(frozen=True)
class Measured:
    """Histories by (workload, GPU model, policy); the first `long_seeds` of each are the long ones.

    Indexed by (workload, GPU model, policy, N) it gives the summary after N recurrences.
    """

    workloads: tuple[Workload, ...]
    histories: dict[tuple[str, str, str], list[History]]
    long_seeds: int

    def __getitem__(self, key: tuple[str, str, str, int]) -> Summary:
        """Return a summary after N recurrences."""
        name, gpu, policy_name, n = key
        workload = next(w for w in self.workloads if (w.name, w.gpu) == (name, gpu))
        histories = self.histories[name, gpu, policy_name]
        if n > max(RECURRENCES):
            histories = histories[: self.long_seeds]
        return summarize(workload, policy_name, histories, n)

    def runs(self, policy_name: str, *, long: bool = False) -> list[Runs]:
        """Return the figures of each workload: all histories, or the long ones in full."""
        found = []
        for w in self.workloads:
            histories = self.histories[w.name, w.gpu, policy_name]
            if long:
                histories = histories[: self.long_seeds]
            length = LONG if long else max(RECURRENCES)
            costs = np.array([h.cost_joules[:length] for h in histories])
            sizes = np.array([h.batch_sizes[:length] for h in histories])
            found.append(Runs(w, costs, sizes))
        return found

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of recurrences that there are figures of."""
        return (*RECURRENCES, LONG) if self.long_seeds else RECURRENCES


def measure(
    workloads: Sequence[Workload],
    seeds: int,
    processes: int,
    long_seeds: int = 0,
    label: str = "main",
) -> Measured:
    """Simulate every workload under every policy, with progress on stderr."""
    keys = [(w, name) for name in POLICY_NAMES for w in workloads]
    tasks = [
        Task(w, policy(name), LONG if seed < long_seeds else max(RECURRENCES), seed)
        for w, name in keys
        for seed in range(seeds)
    ]
    found = iter(simulated(tasks, Effort(seeds, processes), label))
    histories = {(w.name, w.gpu, name): [next(found) for _ in range(seeds)] for w, name in keys}
    return Measured(tuple(workloads), histories, long_seeds)


def disagreements(workloads: Sequence[Workload], found: Measured) -> list[str]:
    """Return where the baseline is off the published rules' figures, in words."""
    wrong = []
    for workload in workloads:
        expected = EXPECTED.get((workload.name, workload.gpu))
        if expected is None:
            continue
        figures_, best = expected
        where = f"{workload.name} on {workload.gpu}"
        if workload.best_arm.batch_size != best:
            wrong.append(f"{where}: best arm {workload.best_arm.batch_size}, expected {best}")
        for n, (mean, error) in zip(RECURRENCES, figures_, strict=True):
            summary = found[workload.name, workload.gpu, "zeus", n]
            room = 0.02 * mean + 2 * (error**2 + summary.regret_standard_error**2) ** 0.5
            if abs(summary.regret_mean - mean) > room:
                wrong.append(f"{where}, N={n}: {summary.regret_mean:.3f}, expected {mean:.3f}")
    return wrong


def table(title: str, workloads: Sequence[Workload], found: Measured) -> str:
    """Return the section of one folder."""
    return _folder_text(title, _folder_result(workloads, found))


def _folder_result(workloads: Sequence[Workload], found: Measured) -> Result:
    zeus, ours = found.runs("zeus"), found.runs("structured")
    result: Result = {
        "counts": list(found.counts),
        "pairs": [
            _pair_result(w, found, a, b) for w, a, b in zip(workloads, zeus, ours, strict=True)
        ],
        "ratios": [figures.mean_ratio(ours, zeus, [n]) for n in RECURRENCES],
        "intervals": [figures.interval(ours, zeus, [n]) for n in RECURRENCES],
        "costs": {
            name: [figures.geometric_mean([r.cost_ratio(n) for r in each]) for n in RECURRENCES]
            for name, each in (("zeus", zeus), ("structured", ours))
        },
        "best": figures.geometric_mean(
            [w.best_arm_cost_joules / w.default_cost_joules for w in workloads]
        ),
    }
    if found.long_seeds:
        zeus, ours = found.runs("zeus", long=True), found.runs("structured", long=True)
        result["ratios"].append(figures.mean_ratio(ours, zeus, [LONG]))
        result["intervals"].append(figures.interval(ours, zeus, [LONG]))
        for name, each in (("zeus", zeus), ("structured", ours)):
            cost = figures.geometric_mean([r.cost_ratio(LONG) for r in each])
            result["costs"][name].append(cost)
        middle = max(RECURRENCES)
        change = figures.log_draws(ours, zeus, LONG) - figures.log_draws(ours, zeus, middle)
        result["long"] = {
            "seeds": found.long_seeds,
            "at_50": figures.mean_ratio(ours, zeus, [middle]),
            "at_200": figures.mean_ratio(ours, zeus, [LONG]),
            "change": figures.quantiles(change),
        }
    return result


def _pair_result(workload: Workload, found: Measured, zeus: Runs, ours: Runs) -> Result:
    key = (workload.name, workload.gpu)
    result: Result = {
        "workload": workload.name,
        "gpu": workload.gpu,
        "best_arm": workload.best_arm.batch_size,
        "default": workload.default_batch_size,
    }
    for name, runs in (("zeus", zeus), ("structured", ours)):
        each = [found[*key, name, n] for n in found.counts]
        result[name] = {
            "regret": [s.regret_mean for s in each],
            "error": [s.regret_standard_error for s in each],
            "cost": [s.cost_ratio for s in each],
            "worst": runs.worst,
            "stuck": runs.stuck,
        }
    pairs = zip(result["structured"]["regret"], result["zeus"]["regret"], strict=True)
    result["ratio"] = [figures.ratio(a, b) for a, b in pairs]
    return result


_COST_HEADER = (
    "workload",
    "GPU",
    "zeus cost",
    "structured cost",
    "worst zeus",
    "worst structured",
    "stuck zeus",
    "stuck structured",
)


def _folder_text(title: str, result: Result) -> str:
    counts, pairs = result["counts"], result["pairs"]
    after = " / ".join(map(str, counts))
    regrets = table_of(
        ["workload", "GPU", "default, best arm", "zeus regret", "structured regret", "ratio"],
        [
            [
                pair["workload"],
                pair["gpu"],
                f"{pair['default']}, {pair['best_arm']}",
                _with_errors(pair["zeus"]),
                _with_errors(pair["structured"]),
                slashed(pair["ratio"], ".2f"),
            ]
            for pair in pairs
        ],
    )
    costs = table_of(
        _COST_HEADER,
        [
            [
                pair["workload"],
                pair["gpu"],
                *(slashed(pair[name]["cost"]) for name in ("zeus", "structured")),
                *(_worst(pair[name]["worst"]) for name in ("zeus", "structured")),
                *(f"{100 * pair[name]['stuck']:.1f}%" for name in ("zeus", "structured")),
            ]
            for pair in pairs
        ],
    )
    means = table_of(
        ["geometric mean over the pairs", *(f"N={n}" for n in counts)],
        [
            ["regret of structured / zeus", *(f"{value:.3f}" for value in result["ratios"])],
            ["its 95% interval", *(between(bounds) for bounds in result["intervals"])],
            *(
                [f"cost of {name} / default", *(f"{value:.4f}" for value in values)]
                for name, values in result["costs"].items()
            ),
            ["cost of the best arm from the start / default"]
            + [f"{result['best']:.4f}"] * len(counts),
        ],
    )
    return "\n".join(
        [
            f"### {title}",
            "",
            means,
            "",
            _findings(result),
            "",
            f"Regret after N = {after}:",
            "",
            regrets,
            "",
            f"Cost over the default's after N = {after}; worst at any N from 10 to 50:",
            "",
            costs,
            "",
        ]
    )


def _with_errors(values: Result) -> str:
    pairs = zip(values["regret"], values["error"], strict=True)
    return " / ".join(f"{regret:.2f} ({error:.2f})" for regret, error in pairs)


def _worst(worst: Sequence[float]) -> str:
    return f"{worst[0]:.3f} at N={worst[1]:.0f}"


def _findings(result: Result) -> str:
    lines = []
    for name in ("structured", "zeus"):
        dear, stuck = [], []
        for pair in result["pairs"]:
            where = f"{pair['workload']} on {pair['gpu']}"
            worst, n = pair[name]["worst"]
            if worst > figures.HARM:
                dear.append(f"{where} ({worst:.3f} at N={n:.0f})")
            if pair[name]["stuck"] > figures.STUCK_SHARE:
                stuck.append(f"{where} ({100 * pair[name]['stuck']:.0f}%)")
        lines.append(f"- {name}, dearer than 1.05 times the default: {_listed(dear)}.")
        lines.append(f"- {name}, over 5% of the histories stuck: {_listed(stuck)}.")
    if "long" in result:
        long = result["long"]
        low, high = long["change"]
        verdict = "no worse" if high <= 1.0 else "worse" if low > 1.0 else "not surely different"
        lines.append(
            f"- N=200 against N=50: the ratio to zeus goes from {long['at_50']:.3f} to "
            f"{long['at_200']:.3f} on the same {long['seeds']} seeds, a factor of "
            f"{between(long['change'])} (95%): {verdict}."
        )
    return "\n".join(lines)


def _listed(found: Sequence[str]) -> str:
    return f"{len(found)}: {', '.join(found)}" if found else "none"


def _study(folders: Sequence[Folder], effort: Effort) -> Result:
    result: Result = {"seeds": effort.seeds, "folders": [], "problems": []}
    for folder in folders:
        long_seeds = max(1, effort.seeds // _SHARE_OF_LONG)
        label = f"main, {folder.name}"
        found = measure(folder.workloads, effort.seeds, effort.processes, long_seeds, label)
        part = _folder_result(folder.workloads, found)
        result["folders"].append({"title": folder.title, **part})
        wrong = disagreements(folder.workloads, found)
        checked = sum((w.name, w.gpu) in EXPECTED for w in folder.workloads)
        result["folders"][-1]["checked"] = checked
        result["problems"] += [f"baseline disagrees: {line}" for line in wrong]
    return result


def _text(result: Result) -> str:
    checked = sum(part["checked"] for part in result["folders"])
    problems = result["problems"]
    agreement = (
        f"Of {checked} pairs the figures of zeus are known from the published rules; within 2% and "
        f"two standard errors {'all agree' if not problems else 'these disagree'}."
    )
    lines = [
        "## Regret, cost, harm, stuck",
        "",
        f"{result['seeds']} seeds, a quarter of them up to N=200. {agreement}",
        *(f"- {line}" for line in problems),
        "",
    ]
    lines += [_folder_text(part["title"], part) for part in result["folders"]]
    return "\n".join(lines)


STUDY: Study = Study("run", 200, 8, _study, _text)

if __name__ == "__main__":
    from benchmarks.optimizer.cli import main

    sys.exit(main(STUDY.name))
