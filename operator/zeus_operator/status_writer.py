"""Status, Events and series of a ZeusJob, from what the store says of it.

All of it is a projection: it can be lost and is made anew.  Nothing is written that is there
already, so an idle cluster sees no request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from zeus_operator import names
from zeus_operator.actions import Wait
from zeus_operator.agents.reports import AgentReport
from zeus_operator.api.template import Problem
from zeus_operator.executors.checkpoints import (
    ClusterCheckpoint,
    ClusterCheckpointHook,
    no_cluster_checkpoint,
)
from zeus_operator.executors.pods import ChildView
from zeus_operator.history.document import VERSION as HISTORY_VERSION
from zeus_operator.history.projector import HistoryProjector
from zeus_operator.kube import AlreadyExists, KubeClient, KubeError, NotFound, Refused, path_of
from zeus_operator.metrics import JobSeries, Metrics
from zeus_operator.mode_limits import ModeLimits
from zeus_operator.recent import Recent
from zeus_operator.records import JobFacts, JobRecord, RecurrenceRecord, RecurrenceState
from zeus_operator.status.events import EventNote, event_manifest, events_of
from zeus_operator.status.projection import HistorySummary, project, store_away, summarize
from zeus_operator.status.series import series_of, with_status
from zeus_operator.status.view import StatusView
from zeus_operator.store.store import Store
from zeus_operator.world import Key, ZeusJobObject, is_older

_REMEMBERED = 5_000
_EVENTS_REMEMBERED = 20_000
_EVENT_AGE = timedelta(minutes=30)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """All that one reconcile has found out.

    Args:
        children: by attempt id.
        refusal: why no child can be created: one word, and words for people.
        reset_waits: a reset was asked for and waits for what runs.
        awaited: whose word on an ended pod is waited for, by attempt id.
    """

    zeusjob: ZeusJobObject
    facts: JobFacts
    children: Mapping[int, ChildView]
    wait: Wait
    problems: tuple[Problem, ...] = ()
    request_problems: tuple[Problem, ...] = ()
    refusal: tuple[str, str] | None = None
    reset_waits: bool = False
    awaited: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _History:
    """A summary and what it was made of: it changes only with what has ended."""

    mark: tuple[Any, ...]
    summary: HistorySummary
    series: JobSeries


class StatusWriter:
    """Writes what users and Prometheus see.

    Args:
        clock: gives the time, aware.
        progress: gives what is to be shown of a running pod, by its UID.
        checkpoint: called between two effects.
        projector: of whole histories; None: nobody shows them.
        mode_limits: the most that a ZeusJob's mode may be.
        note: given a ZeusJob as it is after its status was written.
    """

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        metrics: Metrics,
        clock: Callable[[], datetime],
        progress: Callable[[str], AgentReport | None],
        checkpoint: ClusterCheckpointHook = no_cluster_checkpoint,
        projector: HistoryProjector | None = None,
        mode_limits: ModeLimits | None = None,
        note: Callable[[Mapping[str, Any]], object] = lambda _body: None,
    ) -> None:
        self._store = store
        self._client = client
        self._metrics = metrics
        self._clock = clock
        self._checkpoint = checkpoint
        self._progress = progress
        # By uid: the status that we have written last, and its resourceVersion.
        self._written: Recent[tuple[dict[str, Any], str]] = Recent(_REMEMBERED)
        self._histories: Recent[_History] = Recent(_REMEMBERED)  # by uid
        self._said: Recent[bool] = Recent(_EVENTS_REMEMBERED)  # names of Events
        self._projector = projector
        self._mode_limits = mode_limits or ModeLimits()
        self._note = note

    def write(self, seen: Seen) -> None:
        """Project one ZeusJob.

        Raises:
            KubeError: the status can't be written.
        """
        history, recurrences = self._history(seen.facts)
        view = StatusView(
            generation=seen.zeusjob.generation,
            previous=self._previous(seen.zeusjob),
            facts=seen.facts,
            spec=self._mode_limits.spec_of(seen.facts.job),
            history=history.summary,
            children=seen.children,
            next_tick=seen.wait.until,
            problems=seen.problems,
            request_problems=seen.request_problems,
            refusal=seen.refusal,
            store_trouble="",
            reset_waits=seen.reset_waits,
            now=self._clock(),
            name=seen.zeusjob.key.name,
            uid=seen.zeusjob.uid,
            progress=self._heard(seen.facts),
            awaited=seen.awaited,
            history_kibibytes=self._history_kibibytes,
        )
        status = self._project(seen.zeusjob, view)
        self._metrics.jobs.show(seen.zeusjob.key, with_status(history.series, status))
        self._project_history(seen.facts, history.mark, recurrences)

    def invalid(
        self,
        zeusjob: ZeusJobObject,
        problems: tuple[Problem, ...],
        request_problems: tuple[Problem, ...] = (),
    ) -> None:
        """Say what is wrong with a ZeusJob that was never valid."""
        view = StatusView(
            generation=zeusjob.generation,
            previous=self._previous(zeusjob),
            facts=None,
            spec=None,
            history=summarize(()),
            children={},
            next_tick=None,
            problems=problems,
            request_problems=request_problems,
            refusal=None,
            store_trouble="",
            reset_waits=False,
            now=self._clock(),
            name=zeusjob.key.name,
            uid=zeusjob.uid,
            history_kibibytes=self._history_kibibytes,
        )
        self._project(zeusjob, view)

    def store_away(self, zeusjob: ZeusJobObject, words: str) -> None:
        """Say that the store does not answer; best effort, for the cluster may be away as well."""
        previous = self._previous(zeusjob)
        status = store_away(previous, zeusjob.generation, words, self._clock())
        try:
            self._apply(zeusjob, previous, status)
        except KubeError as error:
            _log.warning("%s: its status can't be written: %s", zeusjob.key, error.message)

    def says_ready(self, zeusjob: ZeusJobObject) -> bool:
        """Whether the status of `zeusjob` says of this very generation that it is valid."""
        status = self._previous(zeusjob)
        return status.get("observedGeneration") == zeusjob.generation and any(
            each["type"] == "Ready"
            and each["status"] == "True"
            and each.get("observedGeneration") == zeusjob.generation
            for each in status.get("conditions") or ()
        )

    def forget(self, job: JobRecord) -> None:
        """Drop what is kept of a ZeusJob that is gone; its series disappear."""
        self._written.drop(job.uid)
        self._histories.drop(job.uid)
        if self._projector is not None:
            self._projector.forget(job.uid)
        self._metrics.jobs.remove(Key(job.namespace, job.name))

    # Status --------------------------------------------------------------------

    @property
    def _history_kibibytes(self) -> int | None:
        return None if self._projector is None else self._projector.most_kibibytes

    def _heard(self, facts: JobFacts) -> dict[str, AgentReport]:
        """Return what agents have told of the newest pod of each open attempt."""
        uids = [
            each.attempts[-1].executions[-1].uid
            for each in facts.recurrences
            if each.state is RecurrenceState.OPEN and each.attempts and each.attempts[-1].executions
        ]
        heard = {uid: self._progress(uid) for uid in uids}
        return {uid: report for uid, report in heard.items() if report is not None}

    def _previous(self, zeusjob: ZeusJobObject) -> dict[str, Any]:
        """Return the status as it is: our own last write, which the cache may not show yet."""
        written = self._written.get(zeusjob.uid)
        if written is None or not is_older(zeusjob.resource_version, written[1]):
            return zeusjob.contents()[1]
        return written[0]

    def _project(self, zeusjob: ZeusJobObject, view: StatusView) -> dict[str, Any]:
        status = project(view)
        self._apply(zeusjob, view.previous, status)
        notes = events_of(view, status, newer_than=view.now - _EVENT_AGE)
        fresh = [note for note in notes if self._said.get(note.name) is None]
        if not fresh:
            return status
        self._checkpoint(ClusterCheckpoint.BEFORE_POST_EVENTS)
        for note in fresh:
            self._post(zeusjob, note)
        self._checkpoint(ClusterCheckpoint.AFTER_POST_EVENTS)
        return status

    def _apply(
        self, zeusjob: ZeusJobObject, previous: Mapping[str, Any], status: dict[str, Any]
    ) -> None:
        if status == previous:
            return
        self._checkpoint(ClusterCheckpoint.BEFORE_PROJECT_STATUS)
        key = zeusjob.key
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            # The uid: a ZeusJob of that name that was made anew meanwhile is another one.
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": zeusjob.uid},
            "status": status,
        }
        path = path_of(names.API_VERSION, names.PLURAL, key.namespace, key.name, "status")
        try:
            answer = self._client.apply(path, body, names.FIELD_MANAGER)
        except NotFound:
            return  # deleted meanwhile
        self._written.put(zeusjob.uid, (status, str(answer["metadata"]["resourceVersion"])))
        self._note(answer)
        self._checkpoint(ClusterCheckpoint.AFTER_PROJECT_STATUS)

    # Events --------------------------------------------------------------------

    def _post(self, zeusjob: ZeusJobObject, note: EventNote) -> None:
        """Say it, unless it was said: the name is a function of what is said."""
        manifest = event_manifest(note, zeusjob.key.namespace, zeusjob.key.name, zeusjob.uid)
        try:
            self._client.create(path_of("v1", "events", zeusjob.key.namespace), manifest)
        except (AlreadyExists, NotFound):
            pass
        except Refused as error:
            _log.warning("%s: an Event was refused: %s", zeusjob.key, error.message)
        self._said.put(note.name, True)

    # History -------------------------------------------------------------------

    def _history(self, facts: JobFacts) -> tuple[_History, tuple[RecurrenceRecord, ...] | None]:
        """Return what the whole history sums up to, read anew only when something has ended.

        With it goes what was read, for whoever needs the same; None: nothing was.
        """
        job = facts.job
        ended = [each for each in facts.recurrences if each.ended_at is not None]
        mark = (
            job.id,
            job.generation,
            len(ended),
            max((each.id for each in ended), default=0),
            max((each.ended_at for each in ended if each.ended_at), default=None),
            facts.last_scheduled_time,
            len(facts.observations),
        )
        known = self._histories.get(job.uid)
        if known is not None and known.mark == mark:
            return known, None
        recurrences = facts.whole_history
        if recurrences is None:
            recurrences = self._store.history(job.id)
        summary = summarize(recurrences)
        made = _History(mark, summary, series_of(recurrences, summary))
        self._histories.put(job.uid, made)
        return made, recurrences

    def _project_history(
        self,
        facts: JobFacts,
        mark: tuple[Any, ...],
        recurrences: tuple[RecurrenceRecord, ...] | None,
    ) -> None:
        """Let the history be shown, if it is another one.

        Args:
            mark: of what has ended.
            recurrences: the whole history; None: it was not read in this reconcile.
        """
        if self._projector is None:
            return
        of_open = [
            (each.id, *((attempt.id, attempt.state.value) for attempt in each.attempts))
            for each in facts.recurrences
            if each.state is RecurrenceState.OPEN
        ]
        # A reset may have left one that has to be emptied.
        was_reset = names.ANNOTATION_RESET in facts.job.handled
        self._projector.project(
            facts.job,
            repr((HISTORY_VERSION, mark, of_open)),
            recurrences,
            may_be_absent=not facts.recorded and not was_reset,
        )
