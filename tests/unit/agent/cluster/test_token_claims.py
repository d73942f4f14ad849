"""What is read of a token before and after its review, as tables."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.support.api_server_double import jwt
from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.cluster.kube_api import TokenReview
from zeus_agent.cluster.review import (
    MAX_TOKEN_BYTES,
    Claims,
    Reason,
    Unauthenticated,
    judge,
    read_claims,
    require_here,
)

NOW = 1_800_000_000.0
OPERATOR = ServiceCaller("zeus-system", "zeus-operator")
GOOD: dict[str, Any] = {
    "aud": ["zeus-agent"],
    "exp": int(NOW) + 600,
    "sub": "system:serviceaccount:team:trainer",
    "kubernetes.io": {"pod": {"name": "train", "uid": "uid-1"}, "node": {"name": "node-1"}},
}


def reason_of(token: str) -> Reason:
    with pytest.raises(Unauthenticated) as refused:
        read_claims(token, "zeus-agent", NOW)
    assert not token or token[:40] not in str(refused.value), "an error must not give it away"
    return refused.value.reason


def test_claims_of_a_projected_token_are_read() -> None:
    assert read_claims(jwt(GOOD), "zeus-agent", NOW) == Claims(
        expires_at_seconds=NOW + 600, account="team:trainer", pod_uid="uid-1", node="node-1"
    )


def test_one_audience_may_be_written_without_a_list() -> None:
    assert read_claims(jwt({**GOOD, "aud": "zeus-agent"}), "zeus-agent", NOW).pod_uid == "uid-1"


def packed(text: str) -> str:
    return "e30." + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=") + ".c2ln"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "opaque-token-of-somewhere",
        "a.b",
        "a.b.c.d",
        "e30.%%%%.c2ln",
        "e30.e3.c2ln",
        packed("[1]"),
        packed("null"),
        packed("{"),
        packed("[" * 4000),
        packed('{"exp": NaN, "aud": "zeus-agent"}'),
        packed('{"exp": Infinity, "aud": "zeus-agent"}'),
        packed('{"exp": 1' + "0" * 4000 + ', "aud": "zeus-agent"}'),
        packed('{"exp": 1' + "0" * 4500 + ', "aud": "zeus-agent"}'),
        packed('{"exp": -1, "aud": "zeus-agent"}'),
        packed('{"exp": true, "aud": "zeus-agent"}'),
        packed('{"exp": "1800000600", "aud": "zeus-agent"}'),
        packed('{"aud": "zeus-agent"}'),
        jwt(GOOD).replace(".", ".\u00e9", 1),
        jwt(GOOD) + "x" * MAX_TOKEN_BYTES,
    ],
)
def test_what_is_no_token_is_malformed(token: str) -> None:
    assert reason_of(token) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": int(NOW)}, Reason.EXPIRED),
        ({"exp": int(NOW) - 3600}, Reason.EXPIRED),
        ({"aud": ["https://kubernetes.default.svc"]}, Reason.WRONG_AUDIENCE),
        ({"aud": []}, Reason.WRONG_AUDIENCE),
        ({"aud": None}, Reason.WRONG_AUDIENCE),
        ({"aud": {"zeus-agent": 1}}, Reason.WRONG_AUDIENCE),
        ({"aud": "zeus-agent-of-somebody"}, Reason.WRONG_AUDIENCE),
    ],
)
def test_a_token_that_can_not_be_good_is_refused_unasked(
    changed: dict[str, Any], reason: Reason
) -> None:
    assert reason_of(jwt({**GOOD, **changed})) is reason


@pytest.mark.parametrize("odd", [None, 7, "text", [], {"pod": 7}, {"pod": {"uid": 7}, "node": []}])
def test_odd_claims_about_the_pod_count_as_none(odd: object) -> None:
    claims = read_claims(jwt({**GOOD, "kubernetes.io": odd}), "zeus-agent", NOW)
    assert (claims.pod_uid, claims.node) == ("", "")
    with pytest.raises(Unauthenticated) as refused:
        require_here(claims, "node-1", None)
    assert refused.value.reason is Reason.NOT_A_POD


def test_a_token_that_names_another_node_is_refused_unasked() -> None:
    with pytest.raises(Unauthenticated) as refused:
        require_here(Claims(NOW, "team:trainer", "uid-1", "node-2"), "node-1", OPERATOR)
    assert refused.value.reason is Reason.OTHER_NODE
    assert "'node-2'" in str(refused.value)


def test_the_operator_may_call_from_another_node() -> None:
    require_here(Claims(NOW, "zeus-system:zeus-operator", "uid-9", "node-2"), "node-1", OPERATOR)


# ---- what a review proves -----------------------------------------------------


def review(**changed: Any) -> TokenReview:
    extra = {
        "authentication.kubernetes.io/pod-name": ("train",),
        "authentication.kubernetes.io/pod-uid": ("uid-1",),
        "authentication.kubernetes.io/node-name": ("node-1",),
        "authentication.kubernetes.io/credential-id": ("JTI=1",),
    }
    fields: dict[str, Any] = {
        "authenticated": True,
        "username": "system:serviceaccount:team:trainer",
        "audiences": ("zeus-agent",),
        "extra": {**extra, **changed.pop("extra", {})},
        **changed,
    }
    return TokenReview(**fields)


def test_a_reviewed_pod_of_this_node_is_the_caller() -> None:
    assert judge(review(), "zeus-agent", "node-1", OPERATOR) == PodCaller(
        namespace="team", pod="train", pod_uid="uid-1", service_account="trainer"
    )


def test_the_operators_account_needs_no_pod_here() -> None:
    elsewhere = {"authentication.kubernetes.io/node-name": ("node-2",)}
    answer = review(username="system:serviceaccount:zeus-system:zeus-operator", extra=elsewhere)
    assert judge(answer, "zeus-agent", "node-1", OPERATOR) == OPERATOR


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (review(authenticated=False), Reason.REJECTED),
        (review(audiences=()), Reason.WRONG_AUDIENCE),  # an API server that knows no audiences
        (review(audiences=("https://kubernetes.default.svc",)), Reason.WRONG_AUDIENCE),
        (review(username="alice"), Reason.NOT_A_POD),
        (review(username="system:serviceaccount:team"), Reason.NOT_A_POD),
        (review(username="system:serviceaccount::trainer"), Reason.NOT_A_POD),
        (review(username="system:serviceaccount:team:trainer:more"), Reason.NOT_A_POD),
        (review(username="oidc:system:serviceaccount:team:trainer"), Reason.NOT_A_POD),
        (review(username="system:node:node-1"), Reason.NOT_A_POD),
        (review(extra={"authentication.kubernetes.io/pod-name": ()}), Reason.NOT_A_POD),
        (review(extra={"authentication.kubernetes.io/pod-uid": ()}), Reason.NOT_A_POD),
        (review(extra={"authentication.kubernetes.io/node-name": ()}), Reason.NOT_A_POD),
        (review(extra={"authentication.kubernetes.io/pod-uid": ("a", "b")}), Reason.NOT_A_POD),
        (review(extra={"authentication.kubernetes.io/node-name": ("node-2",)}), Reason.OTHER_NODE),
    ],
)
def test_a_review_that_proves_no_pod_of_this_node_refuses(
    answer: TokenReview, reason: Reason
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        judge(answer, "zeus-agent", "node-1", OPERATOR)
    assert refused.value.reason is reason


def test_no_account_is_the_operator_where_none_is_configured() -> None:
    answer = review(username="system:serviceaccount:zeus-system:zeus-operator", extra={})
    assert isinstance(judge(answer, "zeus-agent", "node-1", None), PodCaller)
