from __future__ import annotations

import pytest

from zeus_agent.callers import PodCaller
from zeus_agent.leases import Refused
from zeus_agent.sessions import (
    CONNECTION_GRACE_SECONDS,
    MAX_SESSIONS_PER_POD,
    MAX_SESSIONS_PER_USER,
    Member,
    Owner,
    Sessions,
    session_id,
)
from zeus_runtime.protocol import ErrorCode, SessionRequest

ALICE = Owner(pid=100, start_ticks=5, uid=1000)
TRAIN = PodCaller("team", "train", "uid-1", "trainer")
OTHER = PodCaller("team", "other", "uid-2", "trainer")
REQUEST = SessionRequest(job="team/job", ttl_seconds=30.0)
BOUND = SessionRequest(ttl_seconds=30.0, ends_with_connection=True)


@pytest.mark.parametrize("owner", [ALICE, TRAIN])
def test_opening_again_renews_and_is_not_a_second_session(owner: Member) -> None:
    sessions = Sessions()
    first, is_new = sessions.open("a", owner, REQUEST, 0.0)
    assert is_new
    second, is_new = sessions.open("a", owner, REQUEST, 20.0)
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


@pytest.mark.parametrize(
    "stranger",
    [
        OTHER,
        PodCaller("team", "train", "uid-9", "trainer"),  # a later pod of the same name
        ALICE,
    ],
)
def test_a_pods_session_is_not_there_for_anybody_else(stranger: Member) -> None:
    sessions = Sessions()
    session, _ = sessions.open("a", TRAIN, REQUEST, 0.0)
    with pytest.raises(Refused) as refused:
        sessions.use("a", stranger, 1.0)
    assert refused.value.code is ErrorCode.NOT_FOUND
    theirs, is_new = sessions.open("a", stranger, REQUEST, 1.0)
    assert is_new
    assert theirs is not session
    assert sessions.get("a", TRAIN) is session


def test_no_process_can_name_its_session_as_a_pods_is_known() -> None:
    from zeus_agent import bodies

    with pytest.raises(Refused):
        bodies.session_name(session_id("a", TRAIN))


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
    sessions.open("b", TRAIN, REQUEST, 0.0)


def test_one_pod_in_a_loop_does_not_take_the_sessions_of_others() -> None:
    sessions = Sessions()
    for number in range(MAX_SESSIONS_PER_POD):
        sessions.open(f"a{number}", TRAIN, REQUEST, 0.0)
    with pytest.raises(Refused) as refused:
        sessions.open("one-more", TRAIN, REQUEST, 0.0)
    assert refused.value.code is ErrorCode.TOO_MANY_SESSIONS
    assert "team/train" in refused.value.message
    sessions.open("b", OTHER, REQUEST, 0.0)
    sessions.open("b", ALICE, REQUEST, 0.0)


def test_the_sessions_of_a_pod_are_found_by_its_uid() -> None:
    sessions = Sessions()
    for owner in (TRAIN, OTHER, ALICE):
        sessions.open("a", owner, REQUEST, 0.0)
    assert [session.owner for session in sessions.of_pod("uid-1")] == [TRAIN]


# ---- sessions that end with their connection ---------------------------------------


def test_a_session_ends_a_moment_after_its_connection() -> None:
    sessions = Sessions()
    sessions.open("a", TRAIN, BOUND, 0.0, "connection")
    assert sessions.holds("connection")
    assert sessions.connection_lost("connection", 10.0)
    assert sessions.expired(10.0 + CONNECTION_GRACE_SECONDS - 0.01) == []
    assert len(sessions.expired(10.0 + CONNECTION_GRACE_SECONDS)) == 1
    assert not sessions.holds("connection")


def test_it_lives_on_if_it_is_used_again_in_that_moment() -> None:
    sessions = Sessions()
    sessions.open("a", TRAIN, BOUND, 0.0, "first")
    sessions.connection_lost("first", 10.0)
    sessions.use("a", TRAIN, 10.5, "second")
    assert sessions.expired(40.0) == []
    assert sessions.holds("second")


def test_only_the_connection_that_used_it_last_counts() -> None:
    sessions = Sessions()
    sessions.open("a", TRAIN, BOUND, 0.0, "first")
    sessions.use("a", TRAIN, 1.0, "second")
    assert not sessions.connection_lost("first", 2.0)
    assert sessions.expired(30.0) == []
    assert sessions.connection_lost("second", 3.0)


def test_the_end_of_a_connection_never_lengthens_a_life() -> None:
    sessions = Sessions()
    sessions.open("a", TRAIN, BOUND, 0.0, "connection")
    sessions.connection_lost("connection", 29.9)
    assert len(sessions.expired(30.0)) == 1


def test_a_session_that_did_not_ask_for_it_outlives_its_connection() -> None:
    sessions = Sessions()
    sessions.open("a", TRAIN, REQUEST, 0.0, "connection")
    assert not sessions.holds("connection")
    assert not sessions.connection_lost("connection", 1.0)
    assert sessions.expired(29.0) == []


def test_a_session_may_stop_asking_for_it() -> None:
    sessions = Sessions()
    sessions.open("a", TRAIN, BOUND, 0.0, "connection")
    sessions.open("a", TRAIN, REQUEST, 1.0, "connection")
    assert not sessions.connection_lost("connection", 2.0)


def test_a_session_that_has_ended_leaves_nothing_at_its_connection() -> None:
    sessions = Sessions()
    one, _ = sessions.open("a", TRAIN, BOUND, 0.0, "connection")
    sessions.open("b", TRAIN, BOUND, 0.0, "connection")
    sessions.end(one.id)
    assert sessions.holds("connection")
    sessions.connection_lost("connection", 1.0)
    assert [session.name for session in sessions.expired(100.0)] == ["b"]
