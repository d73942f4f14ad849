"""How often the interval of the savings holds the truth, on recorded training runs.

    python -m benchmarks.savings.run [--seeds 200] [--processes 2] [--write]

The trace folders come from ZEUS_TRACES (several are joined as in PATH).  Exits with
1 where the pooled coverage of the 95 % interval under a policy is not 93 to 97 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from benchmarks.savings.histories import Case, Outcomes, Task
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.simulate.pool import simulate_many
from zeus_operator.simulate.traces import TraceError, Workload, load_workloads

RECURRENCES = (10, 20, 50)
FRACTIONS = (Fraction(0), Fraction(1, 20), Fraction(1, 10))
CONFIDENCES = (0.95, 0.8)
CASES = (
    *(Case(f, n, c) for f in FRACTIONS for n in RECURRENCES for c in CONFIDENCES),
    *(Case(f, n, CONFIDENCES[0], every_run=True) for f in FRACTIONS for n in RECURRENCES),
)
TABLE = Path(__file__).parents[2] / "docs" / "explanation" / "savings-results.md"
POOLED = (0.93, 0.97)
LEAST = 0.90

Pair = tuple[str, str]
Found = dict[tuple[str, Pair, Case], list[Outcomes]]


def measure(workloads: list[Workload], seeds: int, processes: int) -> Found:
    """Simulate every workload under every policy, with progress on stderr."""
    found: Found = {}
    total = len(workloads) * len(POLICY_NAMES)
    for name in POLICY_NAMES:
        for workload in workloads:
            tasks = [Task(workload, policy(name), CASES, seed) for seed in range(seeds)]
            each = list(simulate_many(tasks, processes))
            for index, case in enumerate(CASES):
                pair = (workload.name, workload.gpu)
                found[name, pair, case] = [history[index] for history in each]
            done = len(found) // len(CASES)
            end = "\r" if sys.stderr.isatty() and done < total else "\n"
            print(f"{done}/{total} simulated", end=end, file=sys.stderr, flush=True)
    return found


class Selection:
    """The outcomes of some pairs and cases under one policy.

    Args:
        every_run: see `Case`.
    """

    def __init__(
        self,
        found: Found,
        name: str,
        keep: Callable[[Pair, Case], bool],
        *,
        every_run: bool = False,
    ) -> None:
        self._outcomes = {
            confidence: [
                outcome
                for (policy_name, pair, case), outcomes in found.items()
                if (policy_name, case.confidence, case.every_run) == (name, confidence, every_run)
                and keep(pair, case)
                for outcome in outcomes
            ]
            for confidence in CONFIDENCES
        }

    def coverage(self, confidence: float = CONFIDENCES[0]) -> float | None:
        """Share of the intervals that hold the truth; None: there is none."""
        known = self._known(confidence)
        return sum(o.is_covered for o in known) / len(known) if known else None

    @property
    def unknown(self) -> float:
        """Share of the histories without a figure yet."""
        outcomes = self._outcomes[CONFIDENCES[0]]
        return 1.0 - len(self._known(CONFIDENCES[0])) / len(outcomes)

    @property
    def width(self) -> float | None:
        """Median width of the intervals."""
        known = self._known(CONFIDENCES[0])
        return statistics.median(o.width for o in known) if known else None

    @property
    def bias(self) -> float | None:
        """Median of figure less truth."""
        known = self._known(CONFIDENCES[0])
        return statistics.median(o.error for o in known) if known else None

    def _known(self, confidence: float) -> list[Outcomes]:
        return [outcome for outcome in self._outcomes[confidence] if outcome.is_known]


def percent(value: float | None, digits: int = 1) -> str:
    """Return `95.2 %`, or a dash."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """Return percentage points of a saving, or a dash."""
    return "-" if value is None else f"{round(100 * value, 1) + 0.0:.1f}"


def introduction(seeds: int) -> str:
    """Return the head of the Markdown page."""
    return "\n".join(
        [
            "# Measured: how often the interval of the savings is right",
            "",
            "<!-- Written by benchmarks/savings/run.py; do not edit. -->",
            "",
            f"Command: `ZEUS_TRACES=<folders> python -m benchmarks.savings.run --seeds {seeds}"
            " --write`. What is measured, and how: [savings](savings.md).",
            "",
            f"{seeds} simulated histories of each pair of workload and GPU model. After 10, 20 and"
            " 50 recurrences the savings so far are computed by the product's own code, and"
            " compared with the truth: what was spent, against the expected cost of the default"
            " over its recorded runs. Coverage is the share of the intervals that hold the truth;"
            " it should be what the interval claims, 95 and 80 %. Width (median, 95 % interval)"
            " and bias (median of figure less truth) are in percentage points of the saving. Not"
            " known: the share of the histories without a figure yet; they count in no other"
            " column.",
            "",
        ]
    )


def section(name: str, found: Found) -> str:
    """Return the tables of one policy."""
    pairs = sorted({pair for policy_name, pair, _ in found if policy_name == name})
    lines = [
        f"## Under policy {name}",
        "",
        "| controlFraction | recurrences | coverage of 95 % | of 80 % | width | bias | not known |",
        "|---|---|---|---|---|---|---|",
    ]
    for fraction in FRACTIONS:
        for n in RECURRENCES:
            some = Selection(found, name, _where(fraction=fraction, recurrences=n))
            lines.append(_row(f"{float(fraction):g}", str(n), cells=_cells(some)))
    everything = Selection(found, name, _where())
    lines += [_row("all", "all", cells=_cells(everything)), ""]
    shares = " / ".join(f"{float(f):g}" for f in FRACTIONS)
    lines += [
        f"By pair, over all of these. Width by controlFraction {shares}, after 20 recurrences.",
        "",
        "| workload | GPU | coverage of 95 % | of 80 % | width | bias | not known |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        some = Selection(found, name, _where(pair))
        cells = _cells(some)
        cells[2] = " / ".join(points(width) for width in _widths(found, name, pair))
        lines.append(_row(*pair, cells=cells))
    lines += [
        "",
        f"Pairs under {percent(LEAST, 0)}: {_low(found, name, pairs)}.",
        "",
        "If all runs of the default counted, those that the policy chose as well: pooled "
        f"{percent(coverage_of(found, name, every_run=True))}; pairs under "
        f"{percent(LEAST, 0)}: {_low(found, name, pairs, every_run=True)}.",
        "",
    ]
    return "\n".join(lines)


def _low(found: Found, name: str, pairs: Iterable[Pair], *, every_run: bool = False) -> str:
    low = [
        f"{pair[0]} on {pair[1]} ({percent(coverage)})"
        for pair in pairs
        if (coverage := coverage_of(found, name, pair, every_run=every_run)) is not None
        and coverage < LEAST
    ]
    return ", ".join(low) or "none"


def _widths(found: Found, name: str, pair: Pair) -> Iterable[float | None]:
    for fraction in FRACTIONS:
        keep = _where(pair, fraction=fraction, recurrences=RECURRENCES[1])
        yield Selection(found, name, keep).width


def _where(
    pair: Pair | None = None, *, fraction: Fraction | None = None, recurrences: int | None = None
) -> Callable[[Pair, Case], bool]:
    """Return whether an outcome is of these; None: of any."""

    def keep(each: Pair, case: Case) -> bool:
        return (
            pair in (None, each)
            and fraction in (None, case.fraction)
            and recurrences in (None, case.recurrences)
        )

    return keep


def _cells(some: Selection) -> list[str]:
    return [
        percent(some.coverage()),
        percent(some.coverage(CONFIDENCES[1])),
        points(some.width),
        points(some.bias),
        percent(some.unknown),
    ]


def _row(*head: str, cells: list[str]) -> str:
    return "| " + " | ".join([*head, *cells]) + " |"


def coverage_of(
    found: Found, name: str, pair: Pair | None = None, *, every_run: bool = False
) -> float | None:
    """Return the coverage of the 95 % interval under a policy, of one pair or of all."""
    return Selection(found, name, _where(pair), every_run=every_run).coverage()


def main() -> int:
    """Run, print the tables, and hold the coverage against what is claimed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help=f"write docs/explanation/{TABLE.name}")
    arguments = parser.parse_args()
    folders = [Path(f) for f in os.environ.get("ZEUS_TRACES", "").split(os.pathsep) if f]
    if not folders:
        print("ZEUS_TRACES does not name a trace folder: nothing to measure", file=sys.stderr)
        return 2
    try:
        workloads = [workload for folder in folders for workload in load_workloads(folder)]
    except TraceError as error:
        print(error, file=sys.stderr)
        return 2
    started = time.monotonic()
    found = measure(workloads, arguments.seeds, arguments.processes)
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)
    text = "\n".join(
        [introduction(arguments.seeds), *(section(name, found) for name in POLICY_NAMES)]
    )
    print(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")
    low, high = POOLED
    wrong = 0
    for name in POLICY_NAMES:
        coverage = coverage_of(found, name)
        if coverage is None or not low <= coverage <= high:
            wrong = 1
            print(f"pooled coverage under {name}: {percent(coverage)}", file=sys.stderr)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
