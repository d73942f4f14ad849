"""How a training script is ended before its target."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Optional

from zeus_runtime.protocol import STOP_EXIT_CODE, Outcome

ASKED_TO_END_EXIT_CODE = 128 + signal.SIGTERM
"""As a shell says it of who was ended by the signal: whoever runs the script sees why."""


class StopTraining(SystemExit):
    """Ends the script with code 86, because going on is not worth it.

    With 143, as SIGTERM itself would, where the script ends because it was asked to.

    A `SystemExit`, so that nothing after the training loop runs by accident, such as
    saving a model that has not converged; `finally` blocks and `atexit` do run.

    Attributes:
        outcome: why, for programs.
        reason: why, in one sentence.
    """

    def __init__(self, outcome: Outcome, reason: str) -> None:
        asked = outcome is Outcome.PREEMPTED
        super().__init__(ASKED_TO_END_EXIT_CODE if asked else STOP_EXIT_CODE)
        self.outcome = outcome
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Ending:
    """Why a run does no further epoch.

    Args:
        outcome: None outside a ZeusJob.
        reason: one sentence.
        stops_script: whether the model is not the one that was asked for.
    """

    outcome: Optional[Outcome]
    reason: str
    stops_script: bool


def is_out_of_memory(error: Optional[BaseException]) -> bool:
    """Whether the GPU ran out of memory, judged by name so that torch need not be imported."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names = {kind.__name__ for kind in type(error).__mro__}
        if "OutOfMemoryError" in names:
            return True
        if isinstance(error, RuntimeError) and "out of memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def is_crash(error: Optional[BaseException]) -> bool:
    """Whether the script fails by this, and does not just end."""
    return error is not None and not isinstance(error, SystemExit)
