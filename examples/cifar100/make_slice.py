"""Makes a few images in the format of CIFAR-100, to try the script without the data set.

python make_slice.py slice
python train.py --data slice --width 0.5 --batch-size 16 --workers 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

CLASSES = 4
SIDE = 32
NOISE = 40.0  # of 255


def rows(count: int, colours: np.ndarray, random: np.random.Generator) -> bytes:
    """Return `count` images, each in the colours of its class: one above, one below."""
    classes = np.arange(count) % CLASSES
    halves = np.repeat(colours[classes], SIDE // 2, axis=2)  # (count, colour, line)
    images = halves[:, :, :, None] + random.normal(0.0, NOISE, (count, 3, SIDE, SIDE))
    pixels = images.clip(0, 255).astype(np.uint8).reshape(count, -1)
    labels = np.stack((classes // 2, classes), axis=1).astype(np.uint8)
    return np.concatenate((labels, pixels), axis=1).tobytes()


def main() -> None:
    """Write train.bin and test.bin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=256, help="images")
    parser.add_argument("--test", type=int, default=64, help="images")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    colours = random.uniform(0.0, 255.0, (CLASSES, 3, 2))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", arguments.train), ("test", arguments.test)):
        (arguments.folder / f"{name}.bin").write_bytes(rows(count, colours, random))


if __name__ == "__main__":
    main()
