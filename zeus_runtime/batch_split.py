"""How a global batch is split over processes and over what fits into a GPU.  Pure.

The optimizer's step has to see exactly the global batch that was decided: every process takes
the same share of it, and takes that share in micro-batches of one size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class BatchSplit:
    """`micro_batch * accumulation_steps` is `per_process`; all processes together train on it all.

    Args:
        per_process: samples of one process in one step of the optimizer.
        micro_batch: samples that are on the GPU at once.
        accumulation_steps: micro-batches whose gradients make one step of the optimizer.
    """

    per_process: int
    micro_batch: int
    accumulation_steps: int


def split_batch(
    global_batch_size: int, *, processes: int = 1, largest_micro_batch: Optional[int] = None
) -> BatchSplit:
    """Split a global batch evenly, into as few micro-batches as can be.

    Args:
        global_batch_size: samples of one step of the optimizer.
        processes: that train on batches of their own.
        largest_micro_batch: samples that fit into a GPU at once; None: all.

    Raises:
        ValueError: a number is below 1, or the batch can't be divided by the processes.
    """
    for name, value in (
        ("global_batch_size", global_batch_size),
        ("processes", processes),
        ("largest_micro_batch", largest_micro_batch),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: expected a whole number above 0")
    per_process, left_over = divmod(global_batch_size, processes)
    if left_over:
        raise ValueError(_not_divisible(global_batch_size, processes))
    if largest_micro_batch is None:
        return BatchSplit(per_process, per_process, 1)
    micro_batch = largest_divisor(per_process, largest_micro_batch)
    return BatchSplit(per_process, micro_batch, per_process // micro_batch)


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is not above `most`; both are above 0."""
    best = 1
    for divisor in range(1, math.isqrt(number) + 1):
        if number % divisor:
            continue
        for each in (divisor, number // divisor):
            if best < each <= most:
                best = each
    return best


def _not_divisible(global_batch_size: int, processes: int) -> str:
    below = global_batch_size // processes * processes
    nearest = f"{below} and {below + processes}" if below else f"{processes}"
    return (
        f"a global batch size of {global_batch_size} can't be shared evenly by {processes} "
        f"processes; the nearest that can: {nearest}. Give such sizes to the ZeusJob "
        "(batchSize.default and batchSize.choices) or the script's default, or start a number "
        "of processes that divides them all"
    )
