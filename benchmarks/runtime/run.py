"""What our runtime adds to training beside Zeus, and how well it profiles power limits.

    python -m benchmarks.runtime.run [all|overhead|optimum] [--quick] [--write]

`overhead`: a step and an epoch with our `ZeusDataLoader`, with our run without a loader, with Zeus
0.4.0's data loader and with Zeus 0.16.0's power limit optimizer, each against a plain `DataLoader`.
`optimum`: the limit that our profile ends with against the simulator's true optimum.  Zeus is
installed once from PyPI.  `--write` renews the parts measured on the page.  Exits with 1 where an
aim is missed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.agent.run import provenance
from benchmarks.runtime import optimum, overhead
from benchmarks.runtime.rivals import OURS, THEIRS
from tests.support.peers import PeerUnavailable

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "runtime-results.md"

Section = tuple[str, list[str]]
"""Text of the page, and the aims that were missed."""


def measure_overhead(quick: bool) -> Section:
    """Return what all rivals add."""
    lines = [
        "| what | unit | aim | " + " | ".join((*OURS, *THEIRS)) + " |",
        "| --- " * (3 + len(OURS) + len(THEIRS)) + "|",
    ]
    missed = []
    for row in overhead.measure(quick):
        aim = "" if row.aim is None else f"at most {row.aim:g}"
        cells = [str(row.values[name]) for name in (*OURS, *THEIRS)]
        lines.append(f"| {row.what} | {row.unit} | {aim} | " + " | ".join(cells) + " |")
        missed += [
            f"{row.what}: {name} {row.values[name]} {row.unit}"
            for name in OURS
            if row.aim is not None and not row.values[name].value <= row.aim
        ]
    return "\n".join(lines) + "\n", missed


def measure_optimum(quick: bool) -> Section:
    """Return how often the limit held is the optimum."""
    return optimum.measure(quick)


PARTS: dict[str, Callable[[bool], Section]] = {
    "overhead": measure_overhead,
    "optimum": measure_optimum,
}


def renewed(page: str, part: str, text: str) -> str:
    """Return the page with what stands between the marks of `part` replaced.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {part} begin -->\n", f"<!-- {part} end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{PAGE.name} has no marks of {part}")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)


def main() -> int:
    """Measure, print, and say whether an aim was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime.run", description=__doc__)
    parser.add_argument("what", nargs="?", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"renew {PAGE.name}")
    options = parser.parse_args()
    chosen = PARTS if options.what == "all" else {options.what: PARTS[options.what]}
    failed = False
    for part, measure in chosen.items():
        try:
            text, missed = measure(options.quick)
        except PeerUnavailable as error:
            print(f"{part}: {error}", file=sys.stderr)
            return 1
        print(f"\n== {part}\n{text}", flush=True)
        for line in missed:
            print(f"missed: {line}", file=sys.stderr)
        failed = failed or bool(missed)
        if options.write:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(renewed(page, part, f"{provenance()}\n\n{text}"), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
