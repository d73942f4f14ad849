from __future__ import annotations

import pytest

from zeus_agent.leases import Refused
from zeus_agent.sessions import MAX_SESSIONS_PER_USER, Owner, Sessions
from zeus_runtime.protocol import ErrorCode, SessionRequest

ALICE = Owner(pid=100, start_ticks=5, uid=1000)
REQUEST = SessionRequest(job="team/job", ttl_seconds=30.0)


def test_opening_again_renews_and_is_not_a_second_session() -> None:
    sessions = Sessions()
    first, is_new = sessions.open("a", ALICE, REQUEST, 0.0)
    assert is_new
    second, is_new = sessions.open("a", ALICE, REQUEST, 20.0)
    assert not is_new
    assert second is first
    assert first.expires_at_seconds == 50.0


def test_a_session_expires_without_a_call_and_lives_on_with_each() -> None:
    sessions = Sessions()
    sessions.open("a", ALICE, REQUEST, 0.0)
    sessions.use("a", ALICE, 29.0)
    assert sessions.expired(58.9) == []
    assert [s.name for s in sessions.expired(59.0)] == ["a"]


@pytest.mark.parametrize(
    "stranger",
    [
        Owner(pid=101, start_ticks=5, uid=1000),
        Owner(pid=100, start_ticks=9, uid=1000),  # the pid was reused
        Owner(pid=100, start_ticks=5, uid=1001),
    ],
)
def test_a_session_belongs_to_the_process_that_opened_it(stranger: Owner) -> None:
    sessions = Sessions()
    sessions.open("a", ALICE, REQUEST, 0.0)
    with pytest.raises(Refused) as used:
        sessions.use("a", stranger, 1.0)
    with pytest.raises(Refused) as opened:
        sessions.open("a", stranger, REQUEST, 1.0)
    assert used.value.code is opened.value.code is ErrorCode.FORBIDDEN


def test_an_unknown_session_is_not_found_and_named_in_the_details() -> None:
    with pytest.raises(Refused) as refused:
        Sessions().use("a", ALICE, 0.0)
    assert refused.value.code is ErrorCode.NOT_FOUND
    assert refused.value.details == {"session": "a"}


def test_one_user_in_a_loop_does_not_take_the_sessions_of_others() -> None:
    sessions = Sessions()
    for number in range(MAX_SESSIONS_PER_USER):
        sessions.open(f"a{number}", ALICE, REQUEST, 0.0)
    with pytest.raises(Refused) as refused:
        sessions.open("one-more", ALICE, REQUEST, 0.0)
    assert refused.value.code is ErrorCode.TOO_MANY_SESSIONS
    sessions.open("b", Owner(200, 1, 2000), REQUEST, 0.0)
