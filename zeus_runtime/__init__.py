"""What a training script imports: measure energy, turn the power limit, stop in time.

Importing this package is light; torch is only imported with `ZeusDataLoader`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zeus_runtime.settings import batch_size, learning_rate, local_batch_size, seed
from zeus_runtime.stop import StopTraining

if TYPE_CHECKING:
    from zeus_runtime.dataloader import ZeusDataLoader
    from zeus_runtime.run import TrainingRun
    from zeus_runtime.start import start_run

__all__ = [
    "StopTraining",
    "TrainingRun",
    "ZeusDataLoader",
    "batch_size",
    "learning_rate",
    "local_batch_size",
    "seed",
    "start_run",
]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for (PEP 562)."""
    if name == "ZeusDataLoader":
        from zeus_runtime.dataloader import ZeusDataLoader

        return ZeusDataLoader
    if name == "TrainingRun":
        from zeus_runtime.run import TrainingRun

        return TrainingRun
    if name == "start_run":
        from zeus_runtime.start import start_run

        return start_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
