"""The learning rate from epoch to epoch.

By epochs and not by steps, so that it is the same for every batch size.
"""

from __future__ import annotations

import math

WARM_UP_EPOCHS = 5


def share_of_rate(epoch: int, max_epochs: int) -> float:
    """Return the learning rate in an epoch, of its peak: up a line, then down a cosine."""
    if epoch < WARM_UP_EPOCHS:
        return (epoch + 1) / WARM_UP_EPOCHS
    done = (epoch - WARM_UP_EPOCHS) / max(1, max_epochs - WARM_UP_EPOCHS)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
