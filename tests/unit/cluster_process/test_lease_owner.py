"""Whose the Lease is."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from zeus_operator.lease_owner import owner_by_token

CLAIMS: dict[str, Any] = {
    "sub": "system:serviceaccount:zeus-system:zeus-operator",
    "kubernetes.io": {
        "namespace": "zeus-system",
        "serviceaccount": {"name": "zeus-operator", "uid": "6d8a2f0c-6a52-4f2c"},
    },
}


def shown(claims: object) -> str:
    """Return the header of a token that says `claims`, as the API server issues it."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({}, claims)]
    return "Bearer " + ".".join(part.decode().rstrip("=") for part in parts) + ".signature"


def test_the_service_account_of_the_token_owns_it() -> None:
    assert owner_by_token(shown(CLAIMS), "zeus-system") == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "name": "zeus-operator",
        "uid": "6d8a2f0c-6a52-4f2c",
    }


def test_an_account_of_another_namespace_owns_nothing_here() -> None:
    assert owner_by_token(shown(CLAIMS), "elsewhere") is None


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer opaque", "Bearer a.!.c", shown({}), shown([]), shown({"kubernetes.io": None})],
)
def test_who_is_no_service_account_owns_nothing(authorization: str) -> None:
    assert owner_by_token(authorization, "zeus-system") is None
