"""Everything that the operator does because there are agents, beside its workers.

Two threads: one keeps the trust in agents, one asks them for the progress of what runs.  What fails
in them is said once and tried again; runs go on without.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from zeus_operator.agents.client import AgentClient
from zeus_operator.agents.directory import Agents
from zeus_operator.agents.progress import ProgressBook
from zeus_operator.agents.reader import ReportReader
from zeus_operator.agents.reports import AgentReport
from zeus_operator.executors.child import ChildSettings
from zeus_operator.kube import KubeClient, KubeError
from zeus_operator.leader import LeadershipLost
from zeus_operator.metrics import Metrics
from zeus_operator.settings import OperatorSettings, ServiceName
from zeus_operator.trust.keeper import TrustKeeper, Where
from zeus_operator.world import Key, World
from zeus_runtime.protocol import Result

_STOP_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Complaints:
    """Says what is wrong when it becomes so, and when it is over; not each time that it is found.

    Args:
        about: what it is that goes wrong, for the log.
        count: takes how much is wrong, each time.
    """

    def __init__(self, about: str, count: Callable[[int], object]) -> None:
        self._about = about
        self._count = count
        self._said: frozenset[str] = frozenset()

    def hear(self, *problems: str) -> None:
        """Take in all that is wrong now."""
        now = frozenset(problems)
        self._count(len(now))
        for problem in sorted(now - self._said):
            _log.warning("%s: %s", self._about, problem)
        if self._said and not now:
            _log.info("%s: all is well again", self._about)
        self._said = now


class NoAgents:
    """What there is where the operator knows of no agents: nothing is made, nobody is asked.

    Runs may still be told of one whose certificate they trust without the operator.
    """

    def __init__(self, settings: OperatorSettings) -> None:
        self._child = ChildSettings(settings.agent_url, settings.runtime_image)

    def child_settings(self) -> ChildSettings:
        """Return what a run that starts now is told."""
        return self._child

    def result_of(self, _pod_uid: str, _node: str) -> Result | None:
        """Nobody else knows a result."""
        return None

    def shown(self, _pod_uid: str) -> AgentReport | None:
        """Nobody tells of progress."""
        return None

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class AgentSide:
    """What there is of agents for a leader.

    Args:
        service: of the agents.
        enqueue: takes the key of a ZeusJob of which there is progress to show.
        guard: raises `LeadershipLost` if this process may act no more.
        clock: gives the time, aware.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        service: ServiceName,
        client: KubeClient,
        metrics: Metrics,
        world: World,
        enqueue: Callable[[Key], object],
        guard: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._world = world
        self._enqueue = enqueue
        self._guard = guard
        self._keeper = TrustKeeper(
            client,
            Where(settings.lease_namespace, settings.watch_namespaces),
            settings.agent_hosts,
            guard,
            clock,
        )
        book = ProgressBook()
        self.shown = book.shown
        self._reader = ReportReader(
            Agents(client, service).by_node,
            AgentClient(service.host, Path(settings.agent_token_file), lambda: self._keeper.bundle),
            book,
            clock,
        )
        self.result_of = self._reader.result_of
        counted = metrics.agents_looked_at
        self._trust = Complaints("trust in agents", functools.partial(counted, "trust"))
        self._reports = Complaints("reports of agents", functools.partial(counted, "reports"))
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=each, name=name, daemon=True)
            for name, each in {
                "agent-trust": (self.look, self._trust, settings.agent_trust_seconds),
                "agent-reports": (self.poll, self._reports, settings.agent_reports_seconds),
            }.items()
        ]

    def child_settings(self) -> ChildSettings:
        """Return what a run that starts now is told.

        Without an authority to trust it could only knock in vain, so it is told of no agent.
        """
        bundle = self._keeper.bundle
        address = self._settings.agent_url if bundle else None
        return ChildSettings(address, self._settings.runtime_image, bundle)

    def start(self) -> None:
        """Find out whom the first runs have to trust, then go on in threads."""
        self._once(self.prepare, self._trust)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, and wait for that, but not for long."""
        self._stop.set()
        self._reader.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_STOP_SECONDS)

    def prepare(self) -> tuple[str, ...]:
        """Keep the Secrets as they have to be; returns what could not be done."""
        self._guard()
        return self._keeper.prepare()

    def look(self) -> tuple[str, ...]:
        """Keep the trust as it has to be; returns what could not be done."""
        self._guard()
        return self._keeper.look()

    def poll(self) -> tuple[str, ...]:
        """Ask for progress; returns what went wrong."""
        self._guard()
        news, problems = self._reader.poll(self._world)
        for key in news:
            self._enqueue(key)
        return problems

    def _run(
        self, work: Callable[[], tuple[str, ...]], complaints: Complaints, period_seconds: float
    ) -> None:
        while not self._stop.is_set():
            if not self._once(work, complaints):
                return
            self._stop.wait(period_seconds)

    def _once(self, work: Callable[[], tuple[str, ...]], complaints: Complaints) -> bool:
        """Do `work`; returns whether to go on."""
        try:
            complaints.hear(*work())
        except LeadershipLost:
            return False  # whoever watches over the process ends it
        except KubeError as error:
            complaints.hear(error.message)
        except Exception as error:
            if not self._stop.is_set():
                _log.exception("a look at the agents has failed")
                complaints.hear(f"{type(error).__name__}: {error}")
        return True


def agents_of(
    settings: OperatorSettings,
    client: KubeClient,
    metrics: Metrics,
    world: World,
    enqueue: Callable[[Key], object],
    guard: Callable[[], None],
    clock: Callable[[], datetime],
) -> AgentSide | NoAgents:
    """Return what there is of agents by the settings; the arguments are those of `AgentSide`."""
    service = settings.agent_service
    if service is None:
        return NoAgents(settings)
    return AgentSide(settings, service, client, metrics, world, enqueue, guard, clock)
