"""`zeusctl run`: one job, on this machine, until its request is complete."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from zeus_operator.api.manifest import LoadedManifest
from zeus_operator.engine import Engine, EngineEnd, utc_now
from zeus_operator.events import Listener, Notice, RequestResumed
from zeus_operator.executors.checkpoints import Checkpoint, CheckpointHook, no_checkpoint
from zeus_operator.executors.local import LocalDevices, LocalExecutor
from zeus_operator.local.gpu import GpuChoice
from zeus_operator.local.home import Home
from zeus_operator.local.services import Services, open_services
from zeus_operator.local.summary import RunSummary
from zeus_operator.optimizer import policy as policy_named
from zeus_operator.plan import decision_for
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    JobFacts,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RunRequestRecord,
)
from zeus_operator.store.locks import JobBusy, JobLock
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Decision

LOCK_SECONDS = 3.0
LOCK_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class _Requests:
    """The requests of this command; None where it has none of that kind left to run."""

    learned: RunRequestRecord | None
    control: RunRequestRecord | None
    resumed: tuple[RunRequestRecord, ...]


def run_job(
    home: Home,
    manifest: LoadedManifest,
    *,
    recurrences: int | None,
    control: int = 0,
    seed: int = 0,
    policy: str | None = None,
    gpu: GpuChoice = GpuChoice.AUTO,
    listener: Listener,
    stop_event: threading.Event,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], datetime] = utc_now,
    checkpoint: CheckpointHook = no_checkpoint,
) -> RunSummary:
    """Run `recurrences` of the job back to back, then `control` of its default configuration.

    What an earlier command with the same numbers left unfinished goes on; with other numbers
    it is dropped.

    Args:
        recurrences: None: run on the manifest's schedule until `stop_event` is set.
        seed: of the job's decisions.
        policy: None: the one that the manifest names.
        listener: takes events, in the thread of the caller (a notice also in another).
        stop_event: once set, the run in progress is ended cleanly and kept as preempted.

    Raises:
        JobBusy: another program runs this job.
        GpuError, HomeError, EmbeddedPostgresError, StoreError: see `open_services`.
        LocalExecutorError, ChildCollision: see `LocalExecutor.start`.
    """

    def notify(text: str) -> None:
        listener(Notice(text))

    with open_services(home, gpu, notify, environ=environ, checkpoint=checkpoint) as services:
        store = services.store

        def apply() -> JobRecord:
            return _apply(store, manifest, policy, seed, clock())

        metadata = manifest.job.metadata
        job = store.job(metadata.namespace, metadata.name) or apply()
        checkpoint(Checkpoint.JOB_APPLIED)
        with _locked(store, job.id) as lock:
            checkpoint(Checkpoint.JOB_LOCKED)
            job = apply()  # under the lock: nobody's run in progress is changed under its feet
            executor = _executor(home, services, environ, notify, checkpoint)
            executor.check(job)  # before anything is asked for that could not be run
            engine = Engine(
                store,
                executor,
                policy_named(job.policy),
                job.id,
                listener=listener,
                clock=clock,
                stop_event=stop_event,
                guard=lock.ensure,
                checkpoint=checkpoint,
            )
            try:
                if recurrences is None:
                    return _on_schedule(store, job, engine)
                _drop_other_requests(store, job, recurrences, control, notify, clock)
                requests = _request(store, job, recurrences, control, clock)
                checkpoint(Checkpoint.REQUEST_STORED)
                for request in requests.resumed:
                    listener(RequestResumed(job, request))
                return _back_to_back(store, job, engine, requests)
            except KeyboardInterrupt:
                executor.close(wait=False)  # the second Ctrl-C: at once
                raise
            finally:
                executor.close()


def _apply(
    store: Store, manifest: LoadedManifest, policy: str | None, seed: int, now: datetime
) -> JobRecord:
    metadata = manifest.job.metadata
    return store.apply_job(
        metadata.namespace,
        metadata.name,
        manifest.job.spec_document(),
        manifest_path=str(manifest.path),
        policy=policy or manifest.job.spec.policy.value,
        seed=seed,
        now=now,
    )


@contextmanager
def _locked(store: Store, job_id: int) -> Iterator[JobLock]:
    """Hold the job's lock.

    PostgreSQL takes a moment to notice that a killed holder is gone, and the same command again
    is the way to go on after a kill: so a lock that is taken is tried again for a while.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        lock = store.job_lock(job_id)
        try:
            lock.ensure()
            break
        except JobBusy:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOCK_PAUSE_SECONDS)
    with lock:
        yield lock


def _executor(
    home: Home,
    services: Services,
    environ: Mapping[str, str],
    notify: Callable[[str], object],
    checkpoint: CheckpointHook,
) -> LocalExecutor:
    store, gpus = services.store, services.gpus

    def decision_of(job: JobRecord, attempt: AttemptRecord) -> Decision:
        profiles = store.facts(job.id).profiles
        return decision_for(attempt, JobPlanSpec.from_document(job.spec), profiles)

    return LocalExecutor(
        home.runs,
        LocalDevices(gpus.uuids, gpus.environment, gpus.machine),
        decision_of,
        agent_address=services.agent_address,
        inherited=environ,
        notify=notify,
        checkpoint=checkpoint,
    )


def _drop_other_requests(
    store: Store,
    job: JobRecord,
    recurrences: int,
    control: int,
    notify: Callable[[str], object],
    clock: Callable[[], datetime],
) -> None:
    """Let go of what an earlier command asked for, if this one asks for something else.

    The same command again goes on with what was left undone; other numbers say that the
    user has changed their mind.  A recurrence that is open is still brought to its end.
    """
    wanted = {RecurrenceKind.LEARNED: recurrences, RecurrenceKind.CONTROL: control}
    left = store.facts(job.id).requests
    if all(request.recurrences == wanted[request.kind] for request in left):
        return
    # Control first: learned runs without a request mean that they are done (`_request`).
    for request in sorted(left, key=lambda each: each.kind is RecurrenceKind.LEARNED):
        store.cancel_request(request.id, clock())
        what = "default" if request.kind is RecurrenceKind.CONTROL else "learned"
        notify(
            f"an earlier command asked for {request.recurrences} {what} recurrences, of which "
            f"{request.finished} ended; the others are dropped, because this one asks for "
            f"{wanted[request.kind]}"
        )


def _request(
    store: Store, job: JobRecord, recurrences: int, control: int, clock: Callable[[], datetime]
) -> _Requests:
    """Store what this command asks for, or find what an earlier one left to do.

    The request of learned runs is stored first and ends first.  So if only the one of control
    runs is open, a killed command had finished its learned runs, and they must not run again.
    """
    left = {request.kind: request for request in store.facts(job.id).requests}
    now = clock()
    learned = left.get(RecurrenceKind.LEARNED)
    only_control = learned is None and RecurrenceKind.CONTROL in left
    if not only_control:
        learned = store.request_runs(job.id, RecurrenceKind.LEARNED, recurrences, now)
    controls = left.get(RecurrenceKind.CONTROL)
    if controls is not None or control > 0:
        controls = store.request_runs(job.id, RecurrenceKind.CONTROL, control, now)
    return _Requests(learned, controls, tuple(left.values()))


def _back_to_back(store: Store, job: JobRecord, engine: Engine, requests: _Requests) -> RunSummary:
    wanted = [r.id for r in (requests.learned, requests.control) if r is not None]
    end = engine.run(lambda facts: _complete(facts, wanted))
    history = store.history(job.id)
    control_id = requests.control.id if requests.control else None
    learned_id = requests.learned.id if requests.learned else _last_request(history, control_id)
    mine = [r for r in history if r.request_id and r.request_id in (learned_id, control_id)]
    return _summary(
        job,
        end,
        # Of what was asked for, a share may be control runs (`savings.controlFraction`).
        [r for r in mine if r.kind is RecurrenceKind.LEARNED],
        [r for r in mine if r.kind is RecurrenceKind.CONTROL],
    )


def _on_schedule(store: Store, job: JobRecord, engine: Engine) -> RunSummary:
    before = {recurrence.id for recurrence in store.history(job.id) if recurrence.ended_at}
    end = engine.run(lambda facts: False)  # noqa: ARG005 - a schedule has no end
    ran = [r for r in store.history(job.id) if r.id not in before]
    return _summary(
        job,
        end,
        [r for r in ran if r.kind is RecurrenceKind.LEARNED],
        [r for r in ran if r.kind is RecurrenceKind.CONTROL],
    )


def _complete(facts: JobFacts, wanted: list[int]) -> bool:
    """Whether none of the wanted requests is still open."""
    return not any(request.id in wanted for request in facts.requests)


def _last_request(history: tuple[RecurrenceRecord, ...], control_id: int | None) -> int | None:
    """Return the newest request that is not of control runs alone: a resumed command's own."""
    return max(
        (r.request_id for r in history if r.request_id and r.request_id != control_id),
        default=None,
    )


def _summary(
    job: JobRecord,
    end: EngineEnd,
    learned: list[RecurrenceRecord],
    control: list[RecurrenceRecord],
) -> RunSummary:
    return RunSummary(
        job=job,
        learned=tuple(learned),
        control=tuple(control),
        stopped=end.stopped,
        paused=end.paused,
    )
