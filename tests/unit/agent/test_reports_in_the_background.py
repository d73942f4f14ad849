"""Results are handed to a thread that sends the newest of them, once a second at most."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.tls_server import Answer, Request, TlsServer, certificate_for, new_authority
from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import Result, SessionRequest

AUTHORITY = new_authority()
SESSION = "session"


class Site:
    """An agent that notes down what it is told, and a run that tells it."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text("token\n")
        self.server = TlsServer(certificate_for(AUTHORITY), self._respond)
        environ = {"ZEUS_AGENT_CA": AUTHORITY.pem, "ZEUS_AGENT_TOKEN_FILE": str(token)}
        client = AgentClient(self.server.address, 30.0, environ)
        # Nothing else is due for long: only the report itself makes the thread look.
        request = SessionRequest(ttl_seconds=3600.0)
        self.background = BackgroundAgent(client, SESSION, request, renewal_seconds=1000.0)
        self.background.start()

    @staticmethod
    def _respond(request: Request) -> Answer:
        if request.method == "GET":
            return Answer(200, json.dumps({"node": "n", "agent_version": "1"}).encode())
        if request.path.endswith(SESSION):
            return Answer(200, json.dumps({"session": SESSION, "ttl_seconds": 60.0}).encode())
        return Answer(204)

    @property
    def reported(self) -> list[int]:
        """Sequence numbers of the results that came, in their order."""
        bodies = [json.loads(each.body) for each in self.server.requests if each.body]
        return [body["sequence"] for body in bodies if "sequence" in body]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.background.close()
    made.server.close()


def test_of_results_that_come_at_once_the_newest_is_sent_when_the_second_is_over(
    site: Site,
) -> None:
    site.background.report(Result(sequence=1))
    eventually(lambda: site.reported == [1], "the first goes at once", 30)
    for sequence in (2, 3, 4):
        site.background.report(Result(sequence=sequence))
    eventually(lambda: site.reported[-1] == 4, "the newest goes without being asked for", 30)
    assert not {2, 3} & set(site.reported)
    site.background.report(Result(sequence=5))
    eventually(lambda: site.reported[-1] == 5, "and so does one that comes later", 30)


def test_what_was_not_sent_yet_is_sent_at_the_end(site: Site) -> None:
    site.background.report(Result(sequence=1))
    eventually(lambda: site.reported == [1], "the first goes at once", 30)
    site.background.report(Result(sequence=2))
    site.background.report(Result(sequence=3))
    site.background.close()
    assert site.reported[-1] == 3
