"""Removing what the runs of a job have left on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from zeus_operator.executors import rundir
from zeus_operator.executors.execution import Execution, Phase


def remove_runs(runs: Path, job_uid: str) -> int:
    """Remove the folders of all runs of a job, their outputs included.

    For `reset`, and only while the job is locked.  A run whose child lives is kept.

    Args:
        runs: folder of all executions.
        job_uid: of the incarnation.

    Returns:
        How many folders were removed.
    """
    removed = 0
    for owner in runs.glob(f"*/{rundir.OWNER}"):
        found = rundir.read_json(owner)
        if found is None or found.get("job_uid") != job_uid or _is_live(owner.parent):
            continue
        shutil.rmtree(owner.parent)
        removed += 1
    return removed


def _is_live(folder: Path) -> bool:
    numbers = [path for path in folder.iterdir() if path.name.isdecimal()]
    return any(Execution(path).phase() is Phase.LIVE for path in numbers)
