"""Which finished children go, by the history limits of a CronJob."""

from __future__ import annotations

import itertools

import pytest

from tests.support.api_objects import at
from zeus_operator.executors.pruning import FinishedChild, surplus


def child(name: str, seconds: float, *, ok: bool = True) -> FinishedChild:
    return FinishedChild(name, f"uid-{name}", at(seconds), ok)


CHILDREN = (
    child("z", 1),
    child("y", 2, ok=False),
    child("c", 3),
    child("d", 3),
    child("b", 4, ok=False),
    child("a", 5),
)


@pytest.mark.parametrize(
    ("successful", "failed", "removed"),
    [
        (10, 10, ""),
        (3, 1, "zy"),
        (2, 2, "zc"),
        (0, 2, "zcda"),
        (4, 0, "yb"),
        (0, 0, "zycdba"),
    ],
)
def test_the_oldest_beyond_each_limit_go_first(successful: int, failed: int, removed: str) -> None:
    for order in itertools.islice(itertools.permutations(CHILDREN), 0, 720, 97):
        found = surplus(order, successful, failed)

        assert "".join(each.name for each in found) == removed
