"""The one run of this process, where loaders and callbacks find each other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional, Tuple

from zeus_runtime.notices import Notices
from zeus_runtime.settings import RunSettings

if TYPE_CHECKING:
    from zeus_runtime.base_run import BaseRun

SUPERSEDED = (
    "this run was ended when another training loader (one with max_epochs) was made in this "
    "process: make the next one after the epochs of this one, and loaders that only evaluate "
    "without max_epochs"
)


class _Current:
    """Holds the newest run."""

    run: Optional[BaseRun] = None
    pid = 0


_CURRENT = _Current()


def begin(run: BaseRun) -> None:
    """Make `run` the current one."""
    _CURRENT.run, _CURRENT.pid = run, os.getpid()


def get() -> Optional[BaseRun]:
    """Return the current run; None before there is one.  A parent's is none of a forked child."""
    return _CURRENT.run if _CURRENT.pid == os.getpid() else None


def take_over(settings: RunSettings, notices: Notices) -> Tuple[RunSettings, bool]:
    """End the current run, before another one begins.

    Returns:
        The settings that hold for the new run, and whether it is one too many for an
        attempt: the result that waits to be fetched must stay that of the first.
    """
    former = get()
    if former is None:
        return settings, False
    former.supersede()
    if not former.used:
        return settings, False
    if not settings.in_job:
        return settings, True
    notices.error(
        "second-run",
        "this process trains a second time: an attempt of a ZeusJob has one training loader (one "
        "with max_epochs), so only the first one is measured for it and optimized by its "
        "decision. This one runs as outside of a ZeusJob",
    )
    return RunSettings(), True
