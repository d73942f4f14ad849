"""From a ZeusJob as the API server has it to the store: its spec, and what people asked of it."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from zeus_operator import names
from zeus_operator.api.checks import problems
from zeus_operator.api.findings import findings
from zeus_operator.api.requests import RequestError, parse_runs, parse_token
from zeus_operator.api.template import Problem
from zeus_operator.api.types import ZeusJob
from zeus_operator.executors.checkpoints import (
    ClusterCheckpoint,
    ClusterCheckpointHook,
    no_cluster_checkpoint,
)
from zeus_operator.kube import KubeClient, path_of
from zeus_operator.records import JobRecord, RecurrenceState
from zeus_operator.store.store import Store
from zeus_operator.world import Key, ZeusJobObject

_REMEMBERED = 20_000


@dataclass(frozen=True)
class Taken:
    """What became of a ZeusJob.

    Args:
        job: as stored; None where it was never valid.
        problems: of its spec; while there are any, nothing new starts.
        request_problems: annotation and what is wrong with its value.
        reset_waits: a reset was asked for and comes once nothing runs; until then nothing starts.
        has_changed: something may have been stored of it: what was read of it before is outdated.
    """

    job: JobRecord | None
    problems: tuple[Problem, ...] = ()
    request_problems: tuple[Problem, ...] = ()
    reset_waits: bool = False
    has_changed: bool = False


@dataclass
class _Known:
    generation: int
    job_id: int
    annotations: dict[str, str] = field(default_factory=dict)  # dealt with


class Intake:
    """Brings the store up to date with a ZeusJob.  Everything in it may be repeated.

    What is remembered only saves repeating: another process starts without it.

    Args:
        clock: gives the time, aware.
        checkpoint: called between two effects.
    """

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        clock: Callable[[], datetime],
        checkpoint: ClusterCheckpointHook = no_cluster_checkpoint,
    ) -> None:
        self._store = store
        self._client = client
        self._clock = clock
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def take(self, seen: ZeusJobObject, job: JobRecord | None) -> Taken:
        """Store the spec of `seen` if it is valid and new, and what its annotations ask for.

        Args:
            job: as the store has it now; None: it has none that lives.

        Raises:
            KubeError: the UID of its namespace can't be read.
            StoreError: the store does not take it now.
        """
        known = self._remembered(seen.uid)
        if known is not None and known.generation == seen.generation and job is not None:
            return self._requests(seen, known, job, has_changed=False)
        # Also if it was erased by hand, or the store was restored: begin again.
        found = validate(seen)
        if isinstance(found, tuple):
            return Taken(job, found)
        document = found.spec_document()
        has_changed = job is None or job.spec != document or job.policy != found.spec.policy.value
        if job is None or has_changed:
            job = self._store.apply_job(
                seen.key.namespace,
                seen.key.name,
                document,
                manifest_path="",
                policy=found.spec.policy.value,
                seed=seed_of_uid(seen.uid),
                now=self._clock(),
                uid=seen.uid,
                namespace_uid=self._namespace_uid(seen.key.namespace),
                wants_runs=True,
            )
            self._checkpoint(ClusterCheckpoint.JOB_APPLIED)
        known = _Known(seen.generation, job.id)
        with self._lock:
            self._known[seen.uid] = known
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._requests(seen, known, job, has_changed=has_changed)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an incarnation that is gone."""
        with self._lock:
            self._known.pop(uid, None)

    def _remembered(self, uid: str) -> _Known | None:
        with self._lock:
            known = self._known.get(uid)
            if known is not None:
                self._known.move_to_end(uid)
            return known

    def _requests(
        self, seen: ZeusJobObject, known: _Known, job: JobRecord, *, has_changed: bool
    ) -> Taken:
        wrong: list[Problem] = []
        reset_waits = False
        for name, handle in (
            (names.ANNOTATION_RESET, self._reset),
            (names.ANNOTATION_RESUME, self._resume),
            (names.ANNOTATION_RUN, self._run),
        ):
            value = seen.annotations.get(name)
            if value is None or known.annotations.get(name) == value:
                continue
            has_changed = True
            try:
                is_done = handle(job, value)
            except RequestError as error:
                wrong.append(Problem(f'metadata.annotations["{name}"]', str(error)))
                continue
            if is_done:
                known.annotations[name] = value
                self._checkpoint(ClusterCheckpoint.REQUEST_STORED)
            else:
                reset_waits = True
        return Taken(
            job,
            request_problems=tuple(wrong),
            reset_waits=reset_waits,
            has_changed=has_changed,
        )

    def _run(self, job: JobRecord, value: str) -> bool:
        for asked in parse_runs(value):
            self._store.request_runs(
                job.id, asked.kind, asked.runs, self._clock(), token=asked.token
            )
        return True

    def _resume(self, job: JobRecord, value: str) -> bool:
        self._store.resume_job(job.id, parse_token(value), self._clock())
        return True

    def _reset(self, job: JobRecord, value: str) -> bool:
        """Erase what was learned, once nothing runs: a run in flight has decisions to keep to."""
        token = parse_token(value)
        if job.handled.get(names.ANNOTATION_RESET) == token:
            return True
        facts = self._store.facts(job.id)
        if any(each.state is RecurrenceState.OPEN for each in facts.recurrences):
            return False
        self._store.reset_job(job.id, self._clock(), token=token)
        return True

    def _namespace_uid(self, namespace: str) -> str:
        """Return the UID of a namespace: one that was deleted and made anew is another."""
        found = self._client.get(path_of("v1", "namespaces", name=namespace))
        return str(found["metadata"]["uid"])


def validate(seen: ZeusJobObject) -> ZeusJob | tuple[Problem, ...]:
    """Return the ZeusJob, or all that is wrong with it."""
    spec, _ = seen.contents()
    document: dict[str, Any] = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": seen.key.name, "namespace": seen.key.namespace},
        "spec": spec,
    }
    try:
        job = ZeusJob.model_validate(document)
    except ValidationError as error:
        return tuple(findings(error, ZeusJob))
    return tuple(problems(job)) or job


def seed_of_uid(uid: str) -> int:
    """Return the seed of an incarnation, in [0, 2**31)."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4], "big") >> 1


def key_of(job: JobRecord) -> Key:
    """Return the key of a stored job."""
    return Key(job.namespace, job.name)
