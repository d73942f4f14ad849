"""The OpenAPI document says what is checked and served, and is current."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeus_agent import bodies, openapi
from zeus_agent.answers import STATUS
from zeus_agent.http1 import Head, Request
from zeus_agent.leases import Refused
from zeus_agent.operations import OPERATIONS, Access, NoOperation, Router
from zeus_agent.schemas import checked, schema_of
from zeus_runtime.protocol import (
    ErrorCode,
    PowerLimitRequest,
    PowerProfilePoint,
    Result,
    SessionRequest,
    SweepMeasurement,
)

ROOT = Path(__file__).parents[3]
BODIES = [SessionRequest, PowerLimitRequest, Result]


def request(method: str, path: str) -> Request:
    return Request(Head(method, path, {}, 0, keep_alive=True, expects_continue=False), b"")


def test_the_page_in_the_documentation_is_current() -> None:
    page = ROOT / "docs/reference/agent-openapi.json"
    assert page.read_text() == openapi.text(), "run `make docs`"


def test_every_code_has_a_status_and_some_operation_that_gives_it() -> None:
    assert set(STATUS) == set(ErrorCode)
    documented = {
        code
        for path in openapi.document()["paths"].values()
        for operation in path.values()
        for response in operation["responses"].values()
        for code in response["description"].split(", ")
    }
    assert {code.value for code in ErrorCode} <= documented


def test_every_operation_is_found_by_its_method_and_path() -> None:
    router = Router(OPERATIONS)
    for operation in OPERATIONS:
        path = operation.path.format(session="a%2Fb", gpu="GPU-1", pod="uid-1")
        match = router.find(request(operation.method, path))
        assert match.operation is operation
        assert match.parameters.get("session", "a/b") == "a/b"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/", ()),
        ("GET", "/v2/node", ()),
        ("GET", "/v1/node/", ()),
        ("GET", "/v1//node", ()),
        ("GET", "/v1/sessions", ()),
        ("GET", "/v1/sessions/a/b", ()),
        ("POST", "/v1/node", ("GET",)),
        ("HEAD", "/healthz", ("GET",)),
        ("get", "/healthz", ("GET",)),
        ("POST", "/v1/sessions/a", ("DELETE", "GET", "PUT")),
    ],
)
def test_what_is_not_offered_is_not_found(method: str, path: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(NoOperation) as missing:
        Router(OPERATIONS).find(request(method, path))
    assert missing.value.allowed == allowed


def test_only_probes_are_open_to_anyone() -> None:
    assert {o.path for o in OPERATIONS if o.access is Access.ANYONE} == {"/healthz"}


# ---- the check is the schema --------------------------------------------------------

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def some_of(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    """Return bodies with the right names and values of any kind."""
    names = list(schema_of(kind)["properties"])
    values = json_values | st.integers(-2, 3) | st.sampled_from([0.5, "a", [[1, 0.5]], 1.0])
    return st.dictionaries(st.sampled_from(names), values).map(lambda body: {**body})


@pytest.mark.parametrize("kind", BODIES)
def test_what_passes_is_what_the_published_schema_allows(kind: type) -> None:
    schema = schema_of(kind)
    validator = jsonschema_rs.validator_for(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    )

    @given(some_of(kind) | st.fixed_dictionaries({"version": st.just(1)}) | json_values)
    def check(body: Any) -> None:
        try:
            checked(body, schema, "")
            passes = True
        except Refused:
            passes = False
        assert passes == validator.is_valid(body)

    check()


def test_what_the_runtime_sends_passes_and_is_what_comes_out() -> None:
    result = Result(
        job="team/job",
        attempt=2,
        sequence=7,
        outcome="reached",
        epochs=3,
        energy_joules=10.0,
        milestones=((1, 0.5), (3, 0.9)),
        power_profile=(PowerProfilePoint(150.0, 120.0, 0.1),),
        sweep=(SweepMeasurement(64, 1.0), SweepMeasurement(128, 0.9, 5.0)),
        note="ok",
    )
    assert bodies.result(json.loads(json.dumps(asdict(result)))) == result
    wanted = SessionRequest(job="a", ends_with_connection=True)
    assert bodies.session_request(asdict(wanted)) == wanted


def test_fields_that_a_newer_caller_knows_are_let_through_unread() -> None:
    body = {"power_limit_watts": 150, "urgency": "high"}
    assert bodies.power_limit_request(body) == PowerLimitRequest(150.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "power_limit_watts: missing"),
        ({"power_limit_watts": "150"}, "power_limit_watts: expected a number"),
        ({"power_limit_watts": 150_000}, "from 0.001 to 100000"),
        ({"power_limit_watts": 1, "sequence": 1.5}, "sequence: expected a whole number"),
        ({"power_limit_watts": 1, "sequence": True}, "sequence"),
    ],
)
def test_a_refusal_names_the_field(body: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        bodies.power_limit_request(body)


def test_a_refusal_names_the_place_in_a_list() -> None:
    with pytest.raises(Refused, match=r"power_profile\[1\]\.seconds_per_step"):
        bodies.result({"version": 1, "power_profile": [_point(1.0), _point("soon")]})


def _point(seconds: object) -> dict[str, object]:
    return {"power_limit_watts": 1, "average_power_watts": 1, "seconds_per_step": seconds}
