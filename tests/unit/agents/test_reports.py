"""What an agent hands out: read where it is well formed, left out where it is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent_reports import report
from zeus_operator.agents.endpoints import AgentEndpoint, endpoints_of
from zeus_operator.agents.reports import report_of, reports_of
from zeus_operator.classify import RunIdentity


def test_a_report_says_whose_it_is_and_what_was_measured() -> None:
    found = report_of(report("uid-1", epochs=3, sequence=4, energy_joules=12.5, last_metric=0.5))
    assert found is not None
    assert found.pod_uid == "uid-1"
    assert found.received_at == datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)
    assert found.identity == RunIdentity("default/digits", "7", 1)
    assert (found.result.epochs, found.result.energy_joules) == (3, 12.5)


def changed(**fields: Any) -> dict[str, Any]:
    return {**report("uid-1"), **fields}


def with_result(**fields: Any) -> dict[str, Any]:
    body = report("uid-1")
    body["result"].update(fields)
    return body


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        changed(pod_uid=""),
        changed(pod_uid=7),
        changed(received_at="yesterday"),
        changed(received_at=None),
        changed(received_at=1e300),
        changed(received_at=float("nan")),
        changed(result=None),
        changed(result="text"),
        with_result(version=99),
        with_result(epochs="many"),
        with_result(epochs=-1),
        with_result(sequence=2**40),
        with_result(energy_joules=[1]),
        with_result(job=None),
        with_result(milestones=[["a", "b"]]),
    ],
)
def test_what_is_malformed_is_left_out_and_the_others_are_read(body: Any) -> None:
    assert report_of(body) is None
    both = reports_of([body, report("uid-2")])
    assert [each.pod_uid for each in both] == ["uid-2"]


@pytest.mark.parametrize("body", [None, [], {}, {"reports": []}, "text", 7])
def test_an_answer_that_lists_nothing_is_empty(body: Any) -> None:
    assert reports_of(body) == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(report("x")["result"])), json_values, max_size=4))
def test_no_result_makes_reading_fail(fields: dict[str, Any]) -> None:
    found = report_of(json.loads(json.dumps(with_result(**fields))))
    assert found is None or found.pod_uid == "uid-1"


# Where agents are ------------------------------------------------------------------


def one_slice(
    *endpoints: tuple[str | None, str, bool | None], ports: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {
        "ports": [{"name": "https", "port": 8443}] if ports is None else ports,
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": ready},
                **({"nodeName": node} if node else {}),
            }
            for node, address, ready in endpoints
        ],
    }


def test_each_node_has_its_agent() -> None:
    slices = [one_slice(("a", "10.0.0.1", True), ("b", "10.0.0.2", None)), one_slice()]
    assert endpoints_of(slices) == {
        "a": AgentEndpoint("a", "10.0.0.1", 8443),
        "b": AgentEndpoint("b", "10.0.0.2", 8443),
    }


def test_of_two_on_a_node_the_one_that_is_ready_counts() -> None:
    """While a DaemonSet replaces its pod."""
    both = (("a", "10.0.0.1", False), ("a", "10.0.0.2", True))
    for order in (both, both[::-1]):
        assert endpoints_of([one_slice(*order)])["a"].host == "10.0.0.2"
    alone = endpoints_of([one_slice(("a", "10.0.0.1", False))])["a"]
    assert not alone.is_ready


@pytest.mark.parametrize(
    ("ports", "chosen"),
    [
        ([{"name": "metrics", "port": 9090}, {"name": "https", "port": 1}], 1),
        ([{"name": "", "port": 2}], 2),
        ([{"name": "a", "port": 3}, {"name": "b", "port": 4}], None),
        ([], None),
        ([{"name": "https", "port": None}], None),
    ],
)
def test_the_port_is_the_one_named_https_or_the_only_one(
    ports: list[dict[str, Any]], chosen: int | None
) -> None:
    found = endpoints_of([one_slice(("a", "10.0.0.1", True), ports=ports)])
    assert (found["a"].port if found else None) == chosen


def test_an_endpoint_without_a_node_is_nobodys() -> None:
    assert endpoints_of([one_slice((None, "10.0.0.1", True))]) == {}
    assert endpoints_of([{"ports": None, "endpoints": None}]) == {}
