"""Makes a file of sentences, in the format of Sentiment140, whose words change their sentiment.

    python make_slice.py slice.csv
    python train.py --data slice.csv --window 1000 --step 100 --hidden 32 --learning-rate 3e-3 \
        --batch-size 16 --workers 0

Each word is meant well for half of the time and badly for the other half, and each at another time,
as words come into fashion and go out of it.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from pathlib import Path

SYLLABLES = ("ba", "do", "fi", "ku", "le", "mo", "na", "ri")
WORDS = tuple(first + second for first in SYLLABLES for second in SYLLABLES[:6])
WORDS_OF_A_SENTENCE = 7
PERIOD = 1.5  # of a word's sentiment, in the length of the file


def sentiment_of_word(index: int, time: float) -> float:
    """Return it, from -1 to 1, at a time from 0 to 1."""
    return math.sin(2.0 * math.pi * (time / PERIOD + index / len(WORDS)))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--sentences", type=int, default=3000)
    arguments = parser.parse_args()
    chance = random.Random(0)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    with arguments.file.open("w", encoding="latin-1", newline="") as out:
        rows = csv.writer(out, quoting=csv.QUOTE_ALL)
        for place in range(arguments.sentences):
            time = place / arguments.sentences
            words = [chance.randrange(len(WORDS)) for _ in range(WORDS_OF_A_SENTENCE)]
            total = sum(sentiment_of_word(word, time) for word in words)
            text = " ".join(WORDS[word] for word in words)
            rows.writerow(("4" if total > 0.0 else "0", 1_000_000 + place, "", "", "", text))


if __name__ == "__main__":
    main()
