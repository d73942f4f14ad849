"""kopf ends by itself on what it does not expect; that must be seen."""

from __future__ import annotations

import pytest
from kopf._core.reactor import observation
from kubernetes.client import Configuration

from tests.support.eventually import eventually
from zeus_operator.watch import Watches
from zeus_operator.world import World


def nowhere() -> Configuration:
    found = Configuration()
    found.host = "http://127.0.0.1:1"
    return found


def test_the_end_of_kopf_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(**_: object) -> None:
        raise RuntimeError("an answer that kopf does not understand")

    # One of its root tasks: whatever it stumbles over ends it like this.
    monkeypatch.setattr(observation, "resource_observer", broken)
    watches = Watches(World(), lambda _key, _is_first: None, nowhere)
    watches.start()

    eventually(lambda: not watches.alive, "the watches have ended")
    eventually(lambda: isinstance(watches.failure, RuntimeError), "and it is known why")
    watches.stop()


def test_watches_that_never_began_can_be_stopped() -> None:
    watches = Watches(World(), lambda _key, _is_first: None, nowhere)
    watches.stop()
    assert not watches.alive
