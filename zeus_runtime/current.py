"""The one run of this process, where loaders and callbacks find each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from zeus_runtime.run import TrainingRun


class _Current:
    """Holds the newest run."""

    run: Optional[TrainingRun] = None


_CURRENT = _Current()


def begin(run: TrainingRun) -> None:
    """Make `run` the current one; one that was still open is finished."""
    before, _CURRENT.run = _CURRENT.run, run
    if before is not None and before is not run:
        before.finish()


def get() -> Optional[TrainingRun]:
    """Return the current run, or None before there is one."""
    return _CURRENT.run
