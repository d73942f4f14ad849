"""Asks agents: all that matter for progress, one for the result of a run that left none."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime

from zeus_operator.agents.client import LIMITS, AgentClient, AgentUnreachable
from zeus_operator.agents.endpoints import AgentEndpoint
from zeus_operator.agents.progress import ProgressBook
from zeus_operator.agents.reports import AgentReport
from zeus_operator.agents.silence import SilentAgents
from zeus_operator.executors.base import ResultNotYet
from zeus_operator.kube import KubeError
from zeus_operator.world import Key, World
from zeus_runtime.protocol import Result

AT_ONCE = 8
"""Agents that are asked at the same time."""
PATIENCE_SECONDS = 60.0
"""So long a result is waited for that an agent has and can't tell just now."""
EVERYWHERE_SECONDS = 15.0
"""So long at most all agents of a cluster are asked for the result of one pod."""
SEEN_FOR_SECONDS = 600.0
"""An agent that was seen so recently is expected to come back: its pod may be being replaced."""
_WAITING_REMEMBERED = 10_000

_log = logging.getLogger(__name__)

_Ask = Callable[[AgentEndpoint], Sequence[AgentReport]]
_Said = tuple[Sequence[AgentReport], str]
"""Reports, and what is wrong; "": nothing."""


class ReportReader:
    """What the rest of the operator asks for.

    Args:
        agents: gives the agent of each node; may raise `KubeError`.
        clock: gives the time, aware.
        monotonic: seconds.
        everywhere_seconds: longest time in which all agents are asked for one result.
    """

    def __init__(
        self,
        agents: Callable[[], Mapping[str, AgentEndpoint]],
        client: AgentClient,
        book: ProgressBook,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        everywhere_seconds: float = EVERYWHERE_SECONDS,
    ) -> None:
        self._agents = agents
        self._client = client
        self._book = book
        self._clock = clock
        self._monotonic = monotonic
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="agents")
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, float] = OrderedDict()  # pod uid -> asked first at
        self._seen: dict[str, float] = {}  # node -> when its agent was there last
        self._silent = SilentAgents(monotonic, LIMITS.total_seconds)
        self._everywhere_seconds = everywhere_seconds

    def close(self) -> None:
        """Ask no more; what is being asked ends by its time-outs."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def poll(self, world: World) -> tuple[set[Key], tuple[str, ...]]:
        """Ask the agents of all nodes where pods of runs are running.

        Returns:
            The ZeusJobs of which there is something new to show, and what went wrong.

        Raises:
            KubeError: where the agents are can't be found out.
        """
        running = {pod.uid: pod for pod in world.running_pods()}
        with self._lock:
            self._forget_old_waits(self._monotonic())
            awaited = set(self._waiting)
        self._book.keep(running.keys() | awaited, self._clock())
        nodes = {pod.node for pod in running.values()}
        if not nodes:
            return set(), ()
        agents = self._find()
        # One that is not ready is known not to answer; a hundred of them would take long.
        asked = [agents[node] for node in sorted(nodes) if node in agents and agents[node].is_ready]
        problems: list[str] = []
        reports = [
            report
            for report in self._ask_each(asked, self._client.reports, problems)
            if report.pod_uid in running
        ]
        news = self._book.take(reports, self._clock())
        return {running[uid].key for uid in news}, tuple(problems)

    def result_of(self, pod_uid: str, node: str) -> Result | None:
        """Return the last result that a pod has reported; None: it has reported none.

        Args:
            node: where it ran; "": not known.

        Raises:
            ResultNotYet: an agent that may know it does not answer; for a while.
        """
        waits_for = f"the agent of node {node}" if node else "the agents"
        try:
            agents = self._find()
        except KubeError as error:
            why = f"the agents can't be found: {error.message}"
            return self._patiently(pod_uid, why, waits_for)
        problems: list[str] = []
        found: Sequence[AgentReport]
        if not node:
            found = self._ask_everywhere(pod_uid, agents, problems)
        elif node in agents:
            found = self._ask_each([agents[node]], self._asker(pod_uid), problems)
        else:
            found = ()
            if self._is_expected(pod_uid, node):
                problems.append(f"the agent of {node} is not there just now")
        if not found and problems:
            return self._patiently(pod_uid, problems[0], waits_for)
        self._settled(pod_uid)
        return self._best(pod_uid, found)

    def _find(self) -> Mapping[str, AgentEndpoint]:
        """Return the agent of each node, and remember that they were there."""
        agents = self._agents()
        with self._lock:
            now = self._monotonic()
            self._seen.update(dict.fromkeys(agents, now))
            if len(self._seen) > len(agents):
                since = now - SEEN_FOR_SECONDS
                self._seen = {node: at for node, at in self._seen.items() if at > since}
        return agents

    def _is_expected(self, pod_uid: str, node: str) -> bool:
        """Whether an agent that is not there may come back and know of the pod."""
        with self._lock:
            seen_at = self._seen.get(node)
        was_there = seen_at is not None and self._monotonic() - seen_at < SEEN_FOR_SECONDS
        return was_there or self._book.latest(pod_uid) is not None

    def _patiently(self, pod_uid: str, why: str, waits_for: str) -> Result | None:
        with self._lock:
            now = self._monotonic()
            self._forget_old_waits(now)
            since = self._waiting.setdefault(pod_uid, now)
            while len(self._waiting) > _WAITING_REMEMBERED:
                self._waiting.popitem(last=False)
        if now - since < PATIENCE_SECONDS:
            raise ResultNotYet(f"pod {pod_uid} has left no result, and {why}", waits_for)
        _log.warning("pod %s has left no result, and %s; not waited for any longer", pod_uid, why)
        # Whoever asks for several pods comes back while others are waited for: no second wait.
        return self._best(pod_uid, ())

    def _forget_old_waits(self, now: float) -> None:
        """Drop waits that were over long ago.  The lock is held; the oldest are first."""
        while self._waiting:
            pod_uid, since = next(iter(self._waiting.items()))
            if now - since < 2 * PATIENCE_SECONDS:
                return
            del self._waiting[pod_uid]

    def _settled(self, pod_uid: str) -> None:
        with self._lock:
            self._waiting.pop(pod_uid, None)

    def _best(self, pod_uid: str, found: Sequence[AgentReport]) -> Result | None:
        """Return the newest of what was found and what was heard before."""
        known = self._book.latest(pod_uid)
        every = [*found, *([known] if known else [])]
        newest = max(every, key=lambda each: each.result.sequence, default=None)
        return newest.result if newest else None

    def _asker(self, pod_uid: str) -> _Ask:
        return lambda agent: _listed(self._client.report(agent, pod_uid))

    def _ask_each(
        self, agents: Sequence[AgentEndpoint], ask: _Ask, problems: list[str]
    ) -> list[AgentReport]:
        """Return what all of them say, `AT_ONCE` asked at a time."""

        def one(agent: AgentEndpoint) -> _Said:
            return self._ask(agent, ask)

        said = map(one, agents) if len(agents) == 1 else self._pool.map(one, agents)
        return _heard(said, problems)

    def _ask_everywhere(
        self, pod_uid: str, agents: Mapping[str, AgentEndpoint], problems: list[str]
    ) -> list[AgentReport]:
        """Return what the first says that knows the pod: it ran on one node only."""
        # One that is not ready is known not to answer, and one of many is always being replaced.
        ask = self._asker(pod_uid)
        deadline = time.monotonic() + self._everywhere_seconds
        left: set[Future[_Said]] = {
            self._pool.submit(self._ask, each, ask) for each in agents.values() if each.is_ready
        }
        try:
            while left:
                done, left = wait(
                    left, max(0.0, deadline - time.monotonic()), return_when=FIRST_COMPLETED
                )
                if found := _heard((each.result() for each in done), problems):
                    return found
                if not done:
                    problems.append(f"{len(left)} agents were not asked in time")
                    break
        finally:
            for each in left:
                each.cancel()
        return []

    def _ask(self, agent: AgentEndpoint, ask: _Ask) -> _Said:
        """Return what an agent says, or what is wrong with it."""
        if problem := self._silent.problem_of(agent):
            return (), problem
        try:
            reports = ask(agent)
        except AgentUnreachable as error:
            self._silent.is_silent(agent, str(error))
            return (), str(error)
        self._silent.has_answered(agent)
        return reports, ""


def _heard(said: Iterable[_Said], problems: list[str]) -> list[AgentReport]:
    reports: list[AgentReport] = []
    for found, problem in said:
        reports.extend(found)
        if problem:
            problems.append(problem)
    return reports


def _listed(report: AgentReport | None) -> tuple[AgentReport, ...]:
    return () if report is None else (report,)
