"""What `odd_limits` finds, on which tests of teams rely."""

from __future__ import annotations

import json

import pytest

from tests.support.team_lab import Limits, MemberEnded, TeamEnded, odd_limits

ON_THE_WAY: Limits = (250.0, 225.0)
ELSEWHERE: Limits = (250.0, 150.0)


def seen(*states: Limits) -> TeamEnded:
    """Return the end of a team of two whose GPUs had these limits, one after the other."""
    by_rank = [[(0, step, state[rank]) for step, state in enumerate(states)] for rank in (0, 1)]
    members = [MemberEnded(0, json.dumps({"limits": each}), "") for each in by_rank]
    return TeamEnded(tuple(members), None)


@pytest.mark.parametrize(
    ("states", "odd"),
    [
        pytest.param([(250.0, 250.0), (225.0, 225.0)], [], id="one limit"),
        pytest.param([(250.0, 250.0), ON_THE_WAY, (225.0, 225.0)], [], id="on the way"),
        pytest.param([(250.0, 250.0), ELSEWHERE, (225.0, 225.0)], [ELSEWHERE], id="elsewhere"),
        pytest.param([(250.0, 250.0), ON_THE_WAY], [ON_THE_WAY], id="never arrived"),
    ],
)
def test_limits_that_are_not_one_are_found(states: list[Limits], odd: list[Limits]) -> None:
    assert odd_limits(seen(*states)) == odd
