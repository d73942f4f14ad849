"""What the value of `zeus.energy/run` asks for."""

from __future__ import annotations

import pytest

from zeus_operator.api.requests import RequestError, RunRequest, parse_run, parse_runs, parse_token
from zeus_operator.records import RecurrenceKind

CONTROL = RecurrenceKind.CONTROL


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("tuesday", RunRequest("tuesday")),
        ("a.b_c:d-1,runs=3", RunRequest("a.b_c:d-1", 3)),
        ("x,kind=control", RunRequest("x", 1, CONTROL)),
        (" x,runs=2,kind=control ", RunRequest("x", 2, CONTROL)),
    ],
)
def test_a_request_is_read(text: str, request_: RunRequest) -> None:
    assert parse_run(text) == request_
    assert parse_run(str(request_)) == request_


@pytest.mark.parametrize(
    "text",
    ["", "two words", "x,runs=0", "x,runs=-1", "x,runs=1e3", "x,kind=odd", "x,", "(spec.runs)"],
)
def test_what_can_not_be_read_says_what_is_allowed(text: str) -> None:
    with pytest.raises(RequestError, match="nightly-7,runs=3"):
        parse_run(text)


def test_several_requests_are_read_in_order() -> None:
    assert parse_runs("a;b,runs=2") == (RunRequest("a"), RunRequest("b", 2))


def test_a_token_is_an_id_alone() -> None:
    assert parse_token("now") == "now"
    with pytest.raises(RequestError, match="1 to 63"):
        parse_token("now,runs=2")
