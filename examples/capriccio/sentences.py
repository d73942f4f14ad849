"""Sentences in the order of time, and the window of them that a recurrence trains on.  No torch.

The file is as Sentiment140 is published: `"4","1467810369","date","query","user","text"`, polarity
0 or 4, ids that grow with time.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NEGATIVE, POSITIVE = 0, 1
POLARITIES = {"0": NEGATIVE, "4": POSITIVE}  # 2, neutral, is left out
VALIDATION_EVERY = 10  # sentences; each tenth one is not trained on


@dataclass(frozen=True)
class Sentence:
    """A text and its sentiment, `NEGATIVE` or `POSITIVE`."""

    text: str
    sentiment: int


@dataclass(frozen=True)
class Window:
    """What one recurrence sees: a stretch of time.

    Args:
        number: from 0.
        of: how many windows the data has.
        begin: place of its first sentence in all of them.
    """

    number: int
    of: int
    begin: int
    train: tuple[Sentence, ...]
    validation: tuple[Sentence, ...]


def read_sentences(path: Path) -> list[Sentence]:
    """Return the sentences of a file, the oldest first."""
    try:
        with path.open(encoding="latin-1", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except FileNotFoundError:
        raise SystemExit(
            f"{path} is missing: unpack Sentiment140 there (see README.md), or make a small file "
            "of its kind by make_slice.py"
        ) from None
    try:
        rows.sort(key=lambda row: int(row[1]))
        return [Sentence(row[5], POLARITIES[row[0]]) for row in rows if row[0] in POLARITIES]
    except (IndexError, ValueError):
        raise SystemExit(f"{path}: expected rows of polarity,id,date,query,user,text") from None


def window_of(sentences: Sequence[Sentence], recurrence: int, size: int, step: int) -> Window:
    """Return the window of a recurrence: `size` sentences, `step` further for each recurrence.

    After the last window comes the first one again, since this data has an end.

    Raises:
        ValueError: there are fewer sentences than a window has.
    """
    if len(sentences) < size:
        raise ValueError(f"a window has {size} sentences, there are {len(sentences)}")
    windows = (len(sentences) - size) // step + 1
    number = recurrence % windows
    begin = number * step
    inside = sentences[begin : begin + size]
    last = VALIDATION_EVERY - 1
    return Window(
        number=number,
        of=windows,
        begin=begin,
        train=tuple(s for place, s in enumerate(inside) if place % VALIDATION_EVERY != last),
        validation=tuple(inside[last::VALIDATION_EVERY]),
    )
