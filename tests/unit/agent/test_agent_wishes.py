"""When the client asks the agent again, and when it does not."""

from __future__ import annotations

import pytest

from zeus_runtime.agent_wishes import FINAL_REFUSALS, Backoff, Wish, said_pause
from zeus_runtime.protocol import ErrorCode


def test_after_a_success_the_first_try_is_at_once_and_then_ever_later_up_to_30_s() -> None:
    backoff = Backoff()
    assert backoff.next_seconds() == 1.0
    backoff.succeeded()
    assert [backoff.next_seconds() for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("code", sorted(FINAL_REFUSALS))
def test_what_asking_again_can_not_change_is_given_up(code: str) -> None:
    wish = Wish(150.0, 1)
    wish.refused(code, {}, 10.0)
    assert not wish.open


@pytest.mark.parametrize(
    "code",
    ["gpu_leased", "gpu_lost", "nvml_error", "identity_unavailable", "unauthenticated", "internal"],
)
def test_what_may_pass_is_asked_again_ever_later(code: str) -> None:
    wish = Wish(150.0, 1)
    pauses = []
    for _ in range(7):
        wish.refused(code, {}, 100.0)
        pauses.append(wish.due_at - 100.0)
    assert wish.open
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_what_comes_too_fast_is_asked_again_when_the_agent_says() -> None:
    wish = Wish(150.0, 1)
    wish.refused(ErrorCode.RATE_LIMITED, {"retry_after_seconds": 7.5}, 100.0)
    assert wish.open
    assert wish.due_at == wish.not_before == 107.5


def test_giving_back_is_never_put_off() -> None:
    assert Wish(None, 2, not_before=107.5).due_at == 0.0


@pytest.mark.parametrize(
    ("said", "pause"),
    [
        (3, 3.0),
        (0, 0.1),
        (1e9, 300.0),
        (float("inf"), 300.0),
        (float("nan"), None),
        (-1, None),
        ("7", None),
        (True, None),
        (None, None),
    ],
)
def test_a_pause_that_makes_no_sense_is_none(said: object, pause: float | None) -> None:
    assert said_pause({"retry_after_seconds": said}) == pause


@pytest.mark.parametrize("code", ["policy_denied", "gpu_shared", "not_owner", "no_permission"])
def test_what_one_agent_denied_is_asked_of_the_next_one(code: str) -> None:
    wish = Wish(150.0, 1)
    wish.refused(code, {}, 10.0)
    wish.session_lost()
    assert wish.open


@pytest.mark.parametrize("code", ["foreign_change", "bad_request"])
def test_what_someone_else_has_set_stays_theirs_whoever_the_agent_is(code: str) -> None:
    wish = Wish(150.0, 1)
    wish.refused(code, {}, 10.0)
    wish.session_lost()
    assert not wish.open


def test_with_a_session_its_limits_are_lost_and_nothing_is_left_to_release() -> None:
    limit, release = Wish(150.0, 1), Wish(None, 2)
    limit.granted()
    limit.session_lost()
    release.session_lost()
    assert limit.open
    assert not release.open
