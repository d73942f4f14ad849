"""Reproduce the optimizer's figures on recorded training runs and write them as a table.

    python benchmarks/optimizer/run.py [--seeds 200] [--processes 2] [--write]

The trace folders come from ZEUS_TRACES (several are joined as in PATH).  Exits
with 1 where the baseline's figures do not agree with those of the published
rules (within 2% and two standard errors).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.simulate.single_job import Task, simulate_many
from zeus_operator.simulate.summary import Summary, geometric_mean, regret_ratio, summarize
from zeus_operator.simulate.traces import TraceError, Workload, load_workloads

RECURRENCES = (10, 20, 50)
TABLE = Path(__file__).parents[2] / "docs" / "explanation" / "optimizer-results.md"

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

Summaries = dict[tuple[str, str, str, int], Summary]


def measure(workloads: Sequence[Workload], seeds: int, processes: int) -> Summaries:
    """Simulate every workload under every policy, with progress on stderr."""
    found: Summaries = {}
    done = 0
    for name in POLICY_NAMES:
        for workload in workloads:
            tasks = [Task(workload, policy(name), max(RECURRENCES), seed) for seed in range(seeds)]
            histories = list(simulate_many(tasks, processes))
            for n in RECURRENCES:
                summary = summarize(workload, name, histories, n)
                found[workload.name, workload.gpu, name, n] = summary
            done += 1
            total = len(workloads) * len(POLICY_NAMES)
            end = "\r" if sys.stderr.isatty() and done < total else "\n"
            print(f"{done}/{total} simulated", end=end, file=sys.stderr, flush=True)
    return found


def disagreements(workloads: Sequence[Workload], found: Summaries) -> list[str]:
    """Return where the baseline is off the published rules' figures, in words."""
    wrong = []
    for workload in workloads:
        expected = EXPECTED.get((workload.name, workload.gpu))
        if expected is None:
            continue
        figures, best = expected
        where = f"{workload.name} on {workload.gpu}"
        if workload.best_arm.batch_size != best:
            wrong.append(f"{where}: best arm {workload.best_arm.batch_size}, expected {best}")
        for n, (mean, error) in zip(RECURRENCES, figures, strict=True):
            summary = found[workload.name, workload.gpu, "zeus", n]
            room = 0.02 * mean + 2 * (error**2 + summary.regret_standard_error**2) ** 0.5
            if abs(summary.regret_mean - mean) > room:
                wrong.append(f"{where}, N={n}: {summary.regret_mean:.3f}, expected {mean:.3f}")
    return wrong


def introduction(seeds: int) -> str:
    """Return the head of the Markdown page."""
    return "\n".join(
        [
            "# Measured: the optimizer's policies on recorded runs",
            "",
            "<!-- Written by benchmarks/optimizer/run.py; do not edit. -->",
            "",
            f"Command: `ZEUS_TRACES=<folders> python benchmarks/optimizer/run.py --seeds {seeds}"
            " --write`. Energy preference 0.5, the same seeds for both policies.",
            "",
            f"Figures are after N = {' / '.join(map(str, RECURRENCES))} recurrences. Regret is"
            " (cumulative cost - N x cost of the best arm) / cost of the best arm, its standard"
            " error in brackets. Ratio is (structured + 0.05) / (zeus + 0.05). Cost is against"
            " always running the default batch size at full power. Stuck is the share of histories"
            " whose 20th recurrence ended on an arm that costs over 1.2 times the best.",
            "",
        ]
    )


def table(title: str, workloads: Sequence[Workload], found: Summaries) -> str:
    """Return the section of one folder."""
    lines = [
        f"## {title}",
        "",
        "| workload | GPU | best arm | zeus regret | structured regret | ratio | zeus cost |"
        " structured cost | structured stuck |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for workload in workloads:
        zeus = [found[workload.name, workload.gpu, "zeus", n] for n in RECURRENCES]
        ours = [found[workload.name, workload.gpu, "structured", n] for n in RECURRENCES]
        cells = [
            workload.name,
            workload.gpu,
            str(workload.best_arm.batch_size),
            *(
                " / ".join(f"{s.regret_mean:.2f} ({s.regret_standard_error:.2f})" for s in row)
                for row in (zeus, ours)
            ),
            " / ".join(f"{regret_ratio(a, b):.2f}" for a, b in zip(ours, zeus, strict=True)),
            *(" / ".join(f"{s.cost_ratio:.3f}" for s in row) for row in (zeus, ours)),
            f"{100 * ours[1].stuck:.0f}%",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Geometric means over the pairs:",
        "",
        "| | " + " | ".join(f"N={n}" for n in RECURRENCES) + " |",
        "|---|" + "---|" * len(RECURRENCES),
        "| regret of structured / zeus | " + " | ".join(_ratios(workloads, found)) + " |",
    ]
    for name in ("zeus", "structured"):
        means = [
            geometric_mean([found[w.name, w.gpu, name, n].cost_ratio for w in workloads])
            for n in RECURRENCES
        ]
        lines.append(
            f"| cost of {name} / default | " + " | ".join(f"{m:.4f}" for m in means) + " |"
        )
    best = geometric_mean([w.best_arm_cost_joules / w.default_cost_joules for w in workloads])
    lines += [
        f"| cost of the best arm from the start / default |{f' {best:.4f} |' * len(RECURRENCES)}",
        "",
        "Pairs on which structured costs over 1.05 times the default at one of these N: "
        + (", ".join(_dear(workloads, found)) or "none")
        + ".",
        "",
    ]
    return "\n".join(lines)


def _ratios(workloads: Sequence[Workload], found: Summaries) -> list[str]:
    return [f"{geometric_mean([_ratio(w, found, n) for w in workloads]):.3f}" for n in RECURRENCES]


def _ratio(workload: Workload, found: Summaries, n: int) -> float:
    key = (workload.name, workload.gpu)
    return regret_ratio(found[*key, "structured", n], found[*key, "zeus", n])


def _dear(workloads: Sequence[Workload], found: Summaries) -> list[str]:
    worst = {
        f"{w.name} on {w.gpu}": max(
            found[w.name, w.gpu, "structured", n].cost_ratio for n in RECURRENCES
        )
        for w in workloads
    }
    return [f"{where} ({ratio:.3f})" for where, ratio in worst.items() if ratio > 1.05]


def main() -> int:
    """Run, print the table, and compare the baseline with the published rules."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help=f"write docs/explanation/{TABLE.name}")
    arguments = parser.parse_args()
    folders = [Path(f) for f in os.environ.get("ZEUS_TRACES", "").split(os.pathsep) if f]
    if not folders:
        print("ZEUS_TRACES does not name a trace folder: nothing to measure", file=sys.stderr)
        return 2
    sections = [introduction(arguments.seeds)]
    wrong: list[str] = []
    for folder in folders:
        try:
            workloads = load_workloads(folder)
        except TraceError as error:
            print(error, file=sys.stderr)
            return 2
        started = time.monotonic()
        found = measure(workloads, arguments.seeds, arguments.processes)
        print(f"{folder.name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
        sections.append(table(folder.name, workloads, found))
        wrong += disagreements(workloads, found)
    text = "\n".join(sections)
    print(text)
    if arguments.write:
        TABLE.write_text(text)
    for line in wrong:
        print(f"baseline disagrees: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
