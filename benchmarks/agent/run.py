"""What the agent costs and how soon it acts, beside zeusd on the same simulated GPUs.

    python -m benchmarks.agent.run [all|set-limit|burst|restore|idle] [--quick] [--write]

`set-limit`: set a limit and confirm it, our client with the agent, Zeus's own client with zeusd,
and a bare socket with both, in turns.  `burst`: how long 300 requests of one caller delay another
one on a slow driver.  `restore`: how soon a limit is back, whatever ends.  `idle`: processor and
memory.  zeusd and Zeus are installed once from their registries (tests/support/peers.py).
`--write` renews the parts measured on the page.  Exits with 1 where a threshold is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.agent import burst, costs, idle, restore, set_limit
from benchmarks.agent.figures import Figure, number, table
from tests.support.peers import PeerUnavailable

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "agent-results.md"
HEAD = ("what", "agent", "zeusd", "threshold")

Section = tuple[str, list[Figure]]


def measure_set_limit(quick: bool) -> Section:
    """Return the comparison, the costs of the parts, and what is held to a threshold."""
    compared = set_limit.compare(rounds=3 if quick else 9, scale=0.25 if quick else 1.0)
    figures = [figure for each in compared for figure in each.figures()]
    rows = "\n".join(row for each in compared for row in each.rows())
    parts = "\n".join(
        f"| {name} | {number(microseconds)} us |" for name, microseconds in costs.costs().items()
    )
    text = f"""\
| driver | clients | client, server | p50 | p99 | limits/s |
| --- | --- | --- | --- | --- | --- |
{rows}

Our client with the agent against Zeus's client with zeusd; where every call is slow, against Zeus's
GPU object, which makes the same three calls. Not slower means by no more than 2 %, as much as two
runs of the same thing differ:

{table(figures, ("what", "our client, agent", "Zeus, zeusd", "threshold"))}

What each part of it costs by itself, in a loop:

| part | time |
| --- | --- |
{parts}
"""
    return text, figures


def measure_burst(quick: bool) -> Section:
    """Return the delays of another caller."""
    return _plain(burst.burst(rounds=1 if quick else 5))


def measure_restore(quick: bool) -> Section:
    """Return how soon limits are back."""
    return _plain(restore.restore(rounds=5 if quick else 20))


def measure_idle(quick: bool) -> Section:
    """Return processor and memory."""
    return _plain(idle.idle(seconds=10.0 if quick else 60.0))


def _plain(figures: list[Figure]) -> Section:
    return table(figures, HEAD) + "\n", figures


PARTS: dict[str, Callable[[bool], Section]] = {
    "set-limit": measure_set_limit,
    "burst": measure_burst,
    "restore": measure_restore,
    "idle": measure_idle,
}


def provenance() -> str:
    """Return of which commit and on what machine, in general words."""
    commit = subprocess.run(
        ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    ).stdout.strip()
    cores = len(os.sched_getaffinity(0))
    system = f"{platform.system()} on {platform.machine()}, {cores} cores"
    return f"Commit {commit or 'unknown'}; {system}, Python {platform.python_version()}."


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
    """Measure, print, and say whether a threshold was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent.run", description=__doc__)
    parser.add_argument("what", nargs="?", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"renew {PAGE.name}")
    options = parser.parse_args()
    chosen = PARTS if options.what == "all" else {options.what: PARTS[options.what]}
    missed = []
    for part, measure in chosen.items():
        try:
            text, figures = measure(options.quick)
        except PeerUnavailable as error:
            print(f"{part}: {error}", file=sys.stderr)
            return 1
        print(f"\n== {part}\n{text}", flush=True)
        missed += [figure for figure in figures if figure.is_missed]
        if options.write:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(renewed(page, part, f"{provenance()}\n\n{text}"), encoding="utf-8")
    for figure in missed:
        print(f"missed: {figure}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
