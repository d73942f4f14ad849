"""Lets Zeus run where there is no CUDA device: waiting for one has nothing to wait for.

To be imported before Zeus, which looks for a framework when it is imported.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch

FRAMEWORK = "cupy"


def synchronize(device: Any = None) -> None:
    """Wait for nothing."""
    del device


torch.cuda.synchronize = synchronize


class Device:
    """What stands for a CUDA device."""

    def __init__(self, index: int) -> None:
        del index

    def synchronize(self) -> None:
        """Wait for nothing."""


_cupy: Any = types.ModuleType(FRAMEWORK)
_cupy.cuda = types.SimpleNamespace(Device=Device)
sys.modules[FRAMEWORK] = _cupy
