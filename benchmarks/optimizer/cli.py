"""Run studies from the command line, keep what they find, and write the page."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from benchmarks.optimizer import page
from benchmarks.optimizer.shared import (
    Effort,
    Folder,
    Result,
    Study,
    keep,
    kept,
    load_folders,
    state,
)
from zeus_operator.simulate.traces import TraceError

_MAIN = page.STUDIES[0]


def main(name: str) -> int:
    """Run the study called `name`; the main one runs the others too, where it is asked to."""
    study = next(each for each in page.STUDIES if each.name == name)
    arguments = _parser(study).parse_args()
    try:
        folders = load_folders()
    except TraceError as error:
        print(error, file=sys.stderr)
        return 2
    seeds = arguments.seeds or (study.quick_seeds if arguments.quick else study.seeds)
    runner = _Runner(folders, arguments.processes, arguments.quick)
    started = time.monotonic()
    results = {study.name: runner.run(study, seeds)}
    print(study.text(results[study.name]))
    everything = study is _MAIN and (arguments.all or arguments.write)
    for other in page.STUDIES if everything or arguments.write else ():
        if other is study:
            continue
        found = None if everything and arguments.fresh else runner.kept(other)
        if found is None and everything:
            found = runner.run(other, other.quick_seeds if runner.quick else other.seeds)
        if found is None:
            print(
                f"{other.name} was not measured for this state of the program; the page needs all "
                f"studies: python benchmarks/optimizer/run.py --write",
                file=sys.stderr,
            )
            return 2
        results[other.name] = found
        if everything:
            print(other.text(found))
    if everything:
        print(f"all studies: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if arguments.write:
        page.write(results, folders)
    problems = [line for result in results.values() for line in result.get("problems", ())]
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


def _parser(study: Study) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Optimizer study `{study.name}`.")
    parser.add_argument("--seeds", type=int, help=f"histories of each pair ({study.seeds})")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="few seeds, to see whether it runs")
    parser.add_argument("--write", action="store_true", help=f"write {page.PLACE}")
    if study is _MAIN:
        parser.add_argument("--all", action="store_true", help="the other studies as well")
        parser.add_argument(
            "--fresh", action="store_true", help="with --all or --write: use no kept result"
        )
    return parser


class _Runner:
    def __init__(self, folders: Sequence[Folder], processes: int, quick: bool) -> None:
        self._folders = folders
        self._processes = processes
        # Read before anything is measured, as the program is: it may be edited meanwhile.
        self._states = {study.name: state(study) for study in page.STUDIES}
        self.quick = quick

    def run(self, study: Study, seeds: int) -> Result:
        """Measure and keep."""
        effort = Effort(seeds, self._processes, self.quick)
        started = time.monotonic()
        result = study.measure(self._folders, effort)
        print(f"{study.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        keep(study.name, effort, self._states[study.name], result)
        return result

    def kept(self, study: Study) -> Result | None:
        """Return what was measured before, if it still holds."""
        return kept(study, self._states[study.name], quick=self.quick)
