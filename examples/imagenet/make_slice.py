"""Makes a few images in folders of classes, to try the script without ImageNet.

python make_slice.py slice
torchrun --standalone --nproc-per-node=2 train.py --data slice --image-size 32 --width 8 \
    --batch-size 16 --workers 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n00000001", "n00000002", "n00000003")
HEIGHT, WIDTH = 40, 56
NOISE = 30.0  # of 255


def main() -> None:
    """Write train and val."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=64, help="images of each class")
    parser.add_argument("--val", type=int, default=16, help="images of each class")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    for index, name in enumerate(CLASSES):
        colour = np.full(3, 60.0)
        colour[index] = 190.0
        for part, count in (("train", arguments.train), ("val", arguments.val)):
            folder = arguments.folder / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = colour + random.normal(0.0, NOISE, (HEIGHT, WIDTH, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / f"{number}.JPEG")


if __name__ == "__main__":
    main()
