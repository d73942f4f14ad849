"""Which agents have just not answered: they are not asked again at once, whoever wants to know.

A question to a dead node costs seconds of a reconcile worker.  So one failure speaks for a while
for all who ask, and when that is over, one asks and the others still take the old answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from zeus_operator.agents.endpoints import AgentEndpoint

REMEMBERED_SECONDS = 5.0
_FORGOTTEN_SECONDS = 600.0

_Address = tuple[str, int]


@dataclass(frozen=True)
class _Silent:
    until: float
    problem: str


class SilentAgents:
    """Threads may share it.

    Args:
        monotonic: seconds.
        question_seconds: longest time of one question.
    """

    def __init__(self, monotonic: Callable[[], float], question_seconds: float) -> None:
        self._monotonic = monotonic
        self._question_seconds = question_seconds
        self._lock = threading.Lock()
        self._silent: dict[_Address, _Silent] = {}

    def problem_of(self, agent: AgentEndpoint) -> str:
        """Return why `agent` is not to be asked now; "": ask it, and tell here what came of it."""
        with self._lock:
            known = self._silent.get(_address(agent))
            if known is None:
                return ""
            now = self._monotonic()
            if now < known.until:
                return known.problem
            # Whoever is first asks for all.
            self._silent[_address(agent)] = _Silent(now + self._question_seconds, known.problem)
            return ""

    def has_answered(self, agent: AgentEndpoint) -> None:
        """Take in that it answers."""
        with self._lock:
            self._silent.pop(_address(agent), None)

    def is_silent(self, agent: AgentEndpoint, problem: str) -> None:
        """Take in that it does not, and why."""
        with self._lock:
            now = self._monotonic()
            self._silent = {
                address: each
                for address, each in self._silent.items()
                if now < each.until + _FORGOTTEN_SECONDS
            }
            self._silent[_address(agent)] = _Silent(now + REMEMBERED_SECONDS, problem)


def _address(agent: AgentEndpoint) -> _Address:
    return agent.host, agent.port
