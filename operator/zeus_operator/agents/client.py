"""One agent, asked for reports: TLS under the operator's authority, the operator's own token.

Every question is bounded in time and size; a connection is made for each, because an agent is asked
every few seconds at most and may be another one by then.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from zeus_operator.agents.bounded_http import Limits, get
from zeus_operator.agents.endpoints import AgentEndpoint
from zeus_operator.agents.reports import AgentReport, report_of, reports_of
from zeus_runtime.protocol import API_PREFIX

LIMITS = Limits(
    connect_seconds=2.0, silence_seconds=5.0, total_seconds=10.0, body_bytes=16 * 1024 * 1024
)
_TOKEN_BYTES = 64 * 1024


class AgentUnreachable(Exception):  # noqa: N818 - a state, as ConnectionRefused is
    """The agent gives no answer that can be used; the text says why."""


class AgentClient:
    """Asks agents.  Threads may share it.

    Args:
        host_name: of the agents' Service, which their certificate is for.
        token_file: the operator's token; read each time, because it is renewed.
        bundle: gives the certificates to trust, as PEM text.
        limits: of each question.
    """

    def __init__(
        self,
        host_name: str,
        token_file: Path,
        bundle: Callable[[], str],
        limits: Limits = LIMITS,
    ) -> None:
        self._host_name = host_name
        self._token_file = token_file
        self._bundle = bundle
        self._limits = limits
        self._context: tuple[str, ssl.SSLContext] | None = None

    def reports(self, agent: AgentEndpoint) -> tuple[AgentReport, ...]:
        """Return the last reports of the pods on the agent's node.

        Raises:
            AgentUnreachable: there is no answer that can be used.
        """
        return reports_of(self._get(agent, f"{API_PREFIX}/reports"))

    def report(self, agent: AgentEndpoint, pod_uid: str) -> AgentReport | None:
        """Return the last report of a pod; None: the agent knows none that can be used.

        Raises:
            AgentUnreachable: there is no answer that can be used.
        """
        found = report_of(self._get(agent, f"{API_PREFIX}/reports/{quote(pod_uid, safe='')}"))
        return found if found is not None and found.pod_uid == pod_uid else None

    def _get(self, agent: AgentEndpoint, path: str) -> object:
        """Return the JSON at `path`; None: there is nothing."""
        where = f"the agent of {agent.node} ({agent.host}:{agent.port})"
        try:
            status, data = self._ask(agent, path)
        except OSError as error:  # ssl.SSLError and an unreadable token are OSErrors
            raise AgentUnreachable(f"{where} does not answer: {error}") from error
        if status == 404:
            return None
        if status != 200:
            said = data[:200].decode(errors="replace")
            raise AgentUnreachable(f"{where} answers {status}: {said}")
        try:
            found: object = json.loads(data)
        except (ValueError, RecursionError):
            raise AgentUnreachable(f"{where} sends no JSON") from None
        return found

    def _ask(self, agent: AgentEndpoint, path: str) -> tuple[int, bytes]:
        return get(
            (agent.host, agent.port),
            path,
            {"Accept": "application/json", "Authorization": f"Bearer {self._token()}"},
            self._ssl_context(),
            self._host_name,
            self._limits,
        )

    def _token(self) -> str:
        with self._token_file.open(encoding="utf-8", errors="strict") as file:
            try:
                token = file.read(_TOKEN_BYTES).strip()
            except UnicodeDecodeError:
                token = ""
        if not token or not token.isascii() or not token.isprintable():
            raise OSError(f"{self._token_file} holds no token")
        return token

    def _ssl_context(self) -> ssl.SSLContext:
        text = self._bundle()
        known = self._context
        if known is not None and known[0] == text:
            return known[1]
        if not text:  # without any, Python would trust what the machine does
            raise OSError("the authority that signs the agents' certificate is not known yet")
        context = ssl.create_default_context(cadata=text)
        self._context = (text, context)
        return context
