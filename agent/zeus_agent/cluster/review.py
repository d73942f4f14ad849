"""What a token may claim, and what a review of it proves.  Pure.

The claims of a token are read before anybody has checked its signature: they only ever serve to
refuse it sooner.  Who calls comes from the review alone.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
from dataclasses import dataclass
from typing import Any

from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.cluster.facts import TokenReview

MAX_TOKEN_BYTES = 8192
"""Tokens of service accounts have 1 to 2 KiB."""

_LAST_SECOND = 2**53

_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_NODE_NAME = "authentication.kubernetes.io/node-name"
_ACCOUNT_PREFIX = "system:serviceaccount:"


class Reason(enum.StrEnum):
    """Why a token proves nothing here; a label of metrics."""

    MALFORMED = "malformed"
    EXPIRED = "expired"
    WRONG_AUDIENCE = "wrong_audience"
    REJECTED = "rejected"  # the API server does not know it, or no longer
    NOT_A_POD = "not_a_pod"  # a valid token that is not bound to a pod on a node
    OTHER_NODE = "other_node"
    POD_GONE = "pod_gone"


class Unauthenticated(Exception):  # noqa: N818 -- an answer to the caller
    """The token does not prove who calls.  The text is for the caller and holds no token."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    """What an unchecked token says.

    Args:
        expires_at_seconds: seconds since 1970.
        account: `NAMESPACE:NAME` of the service account; "" for none.
        pod_uid, node: "" for none.
    """

    expires_at_seconds: float
    account: str = ""
    pod_uid: str = ""
    node: str = ""


def read_claims(token: str, audience: str, now_seconds: float) -> Claims:
    """Return what the token says of itself, if that could be good for anything here.

    Args:
        now_seconds: of the wall clock, since 1970.

    Raises:
        Unauthenticated: no signature could make this token good.
    """
    claims = _payload(token)
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, (int, float)):
        raise _malformed("its claim exp is no number")
    if not 0 <= expires <= _LAST_SECOND:  # not a number, infinite, or too large for a float
        raise _malformed("its claim exp is no time")
    named = claims.get("aud")
    audiences = [named] if isinstance(named, str) else named
    if not isinstance(audiences, list) or audience not in audiences:
        raise Unauthenticated(
            Reason.WRONG_AUDIENCE,
            f"the token is not for the audience {audience!r}; project one with "
            f"serviceAccountToken.audience: {audience}",
        )
    if expires <= now_seconds:
        raise Unauthenticated(Reason.EXPIRED, "the token has expired; read its file again")
    bound = _mapping(claims.get("kubernetes.io"))
    subject = claims.get("sub")
    return Claims(
        expires_at_seconds=float(expires),
        account=subject.removeprefix(_ACCOUNT_PREFIX) if isinstance(subject, str) else "",
        pod_uid=_text(_mapping(bound.get("pod")).get("uid")),
        node=_text(_mapping(bound.get("node")).get("name")),
    )


def require_here(claims: Claims, node: str, operator: ServiceCaller | None) -> None:
    """Check that the claims could belong to a pod of this node or to the operator.

    Raises:
        Unauthenticated: they can't.
    """
    if operator is not None and claims.account == account_of(operator):
        return
    if not claims.pod_uid:
        raise _not_a_pod()
    if claims.node and claims.node != node:
        raise _other_node(claims.node, node)


def account_of(caller: ServiceCaller) -> str:
    """Return `NAMESPACE:NAME`."""
    return f"{caller.namespace}:{caller.service_account}"


def judge(
    review: TokenReview, audience: str, node: str, operator: ServiceCaller | None
) -> ServiceCaller | PodCaller:
    """Return who the API server says calls; whether that pod still lives is another question.

    Raises:
        Unauthenticated: nobody who may call here.
    """
    if not review.authenticated:
        raise Unauthenticated(
            Reason.REJECTED,
            "the API server does not accept the token (forged, expired, or its pod is gone); "
            "read its file again",
        )
    if audience not in review.audiences:
        # An API server that does not know audiences answers with none.
        raise Unauthenticated(
            Reason.WRONG_AUDIENCE, f"the API server did not confirm the audience {audience!r}"
        )
    account = _account(review.username)
    if account is None:
        raise _not_a_pod()
    namespace, name = account
    if operator == ServiceCaller(namespace, name):
        return operator
    pod, uid, on_node = (_only(review, key) for key in (_POD_NAME, _POD_UID, _NODE_NAME))
    if not pod or not uid or not on_node:
        raise _not_a_pod()
    if on_node != node:
        raise _other_node(on_node, node)
    return PodCaller(namespace, pod, uid, name)


def pod_gone() -> Unauthenticated:
    """Return the error for a good token whose pod does not live here."""
    return Unauthenticated(Reason.POD_GONE, "the pod of the token does not live on this node")


def _account(username: str) -> tuple[str, str] | None:
    """Return namespace and name of a service account, None for other users."""
    if not username.startswith(_ACCOUNT_PREFIX):
        return None
    parts = username.removeprefix(_ACCOUNT_PREFIX).split(":")
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def _only(review: TokenReview, key: str) -> str:
    values = review.extra.get(key, ())
    return values[0] if len(values) == 1 else ""


def _payload(token: str) -> dict[str, Any]:
    if len(token) > MAX_TOKEN_BYTES:
        raise _malformed(f"it is longer than {MAX_TOKEN_BYTES} characters")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts) or not token.isascii():
        raise _malformed("it is no JSON Web Token")
    text = parts[1]
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        claims = json.loads(data)
    except (binascii.Error, ValueError, RecursionError):
        raise _malformed("its claims can't be read") from None
    if not isinstance(claims, dict):
        raise _malformed("its claims are no object")
    return claims


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _malformed(why: str) -> Unauthenticated:
    return Unauthenticated(Reason.MALFORMED, f"the token is malformed: {why}")


def _not_a_pod() -> Unauthenticated:
    return Unauthenticated(
        Reason.NOT_A_POD,
        "the token is not bound to a pod on a node; use the one that the pod's "
        "serviceAccountToken volume holds (clusters before 1.30 do not name the node)",
    )


def _other_node(theirs: str, ours: str) -> Unauthenticated:
    return Unauthenticated(
        Reason.OTHER_NODE, f"the token is of a pod on node {theirs!r}, this agent serves {ours!r}"
    )
