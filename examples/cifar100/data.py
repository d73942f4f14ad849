"""CIFAR-100 in its "binary version": rows of bytes, one for each image.

Images stay bytes until they are on the GPU, where a whole batch is augmented at once: that is
less to copy, and no work for the loader's processes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import TensorDataset

CLASSES = 100
SHAPE = (3, 32, 32)
ROW_BYTES = 2 + 3 * 32 * 32  # superclass, class, then all of red, of green and of blue
MEAN = (0.5071, 0.4865, 0.4409)  # of the training images, by colour
DEVIATION = (0.2673, 0.2564, 0.2762)
SHIFT_PIXELS = 4


def read_images(path: Path) -> TensorDataset:
    """Return the images of `train.bin` or `test.bin`, bytes of shape (3, 32, 32), with classes."""
    try:
        content = bytearray(path.read_bytes())
    except FileNotFoundError:
        raise SystemExit(
            f"{path} is missing: unpack CIFAR-100's binary version there (see README.md), or make "
            "a small slice by make_slice.py"
        ) from None
    if not content or len(content) % ROW_BYTES:
        raise SystemExit(f"{path}: expected rows of {ROW_BYTES} bytes, got {len(content)} bytes")
    rows = torch.frombuffer(content, dtype=torch.uint8).view(-1, ROW_BYTES)
    return TensorDataset(rows[:, 2:].reshape(-1, *SHAPE), rows[:, 1].long())


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Return bytes, shape (n, 3, height, width), as numbers of mean 0 and deviation 1."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=images.device).view(3, 1, 1)
    return (images.float() / 255.0 - mean) / deviation


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Return each image shifted by up to 4 pixels, half of them mirrored."""
    count, colours, height, width = images.shape
    device = images.device
    padded = functional.pad(images, (SHIFT_PIXELS,) * 4, mode="reflect")
    down, right = torch.randint(2 * SHIFT_PIXELS + 1, (2, count, 1), device=device)
    rows = down + torch.arange(height, device=device)
    columns = right + torch.arange(width, device=device)
    mirrored = torch.rand(count, 1, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[
        torch.arange(count, device=device).view(-1, 1, 1, 1),
        torch.arange(colours, device=device).view(1, -1, 1, 1),
        rows.view(count, 1, height, 1),
        columns.view(count, 1, 1, width),
    ]
