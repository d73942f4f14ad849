"""Who asks the API server: a token that is renewed while the operator runs."""

from __future__ import annotations

import pytest
from kubernetes.client import Configuration

from zeus_operator import kube
from zeus_operator.kube import KubeClient


class Renewed:
    """A token that is another one whenever somebody looks."""

    def __init__(self) -> None:
        self.looks = 0
        self.configuration = Configuration()
        self.configuration.host = "http://localhost"
        self.configuration.refresh_api_key_hook = self.renew  # type: ignore[assignment]

    def renew(self, configuration: Configuration) -> None:
        self.looks += 1
        configuration.api_key["authorization"] = f"Bearer {self.looks}"


def test_a_token_is_not_looked_up_for_each_request() -> None:
    token = Renewed()
    client = KubeClient(token.configuration)
    assert {client.authorization() for _ in range(100)} == {"Bearer 1"}
    assert token.looks == 1


def test_a_renewed_token_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "AUTHORIZATION_KEPT_SECONDS", 0.0)
    client = KubeClient(Renewed().configuration)
    assert [client.authorization() for _ in range(2)] == ["Bearer 1", "Bearer 2"]
