"""Leases end when list after list says that the board is no longer their pod's."""

from __future__ import annotations

from zeus_agent.cluster.disowned import Disowned

ONE, TWO = ("session-1", "GPU-a"), ("session-2", "GPU-b")


def test_one_list_that_misses_a_board_ends_no_lease_however_often_it_is_looked_at() -> None:
    disowned = Disowned()
    assert [disowned.over([ONE], 7) for _ in range(3)] == [[], [], []]


def test_a_second_list_that_says_the_same_ends_it() -> None:
    disowned = Disowned()
    disowned.over([ONE], 7)
    assert disowned.over([ONE, TWO], 8) == [ONE]
    assert disowned.over([TWO], 9) == [TWO]


def test_a_board_that_is_back_meanwhile_begins_anew() -> None:
    disowned = Disowned()
    disowned.over([ONE], 7)
    disowned.over([], 8)
    assert disowned.over([ONE], 9) == []
