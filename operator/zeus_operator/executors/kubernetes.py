"""Attempts as Kubernetes Jobs: created once, adopted after a crash, watched, stopped, pruned.

The name of a child is a function of its attempt, and the attempt is stored before the child is
created.  So a child is made by POST alone: where the name is taken, it is ours from before a
crash (adopted), or a stranger's (a collision, reported).  Every deletion names the UID that it
is for, so that a late one can't hit a successor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from zeus_operator import names
from zeus_operator.api.template import training_container
from zeus_operator.api.types import ZeusJobSpec
from zeus_operator.executors.base import ChildCollision
from zeus_operator.executors.checkpoints import (
    ClusterCheckpoint,
    ClusterCheckpointHook,
    no_cluster_checkpoint,
)
from zeus_operator.executors.child import ChildSettings, build_child, dry_run_child, owned_by
from zeus_operator.executors.pod_fields import GONE_MARK, controller_uid, spec_of, uid_of
from zeus_operator.executors.pods import ChildPhase, ChildView, child_view, finished_times
from zeus_operator.executors.pruning import FinishedChild, surplus
from zeus_operator.kube import AlreadyExists, KubeClient, NotFound, path_of
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobFacts,
    JobRecord,
)
from zeus_operator.world import Key, World
from zeus_runtime.protocol import Decision, Outcome, Result

Object = dict[str, Any]

_JOBS = ("batch/v1", "jobs")
_PODS = ("v1", "pods")


class ChildNotGone(Exception):  # noqa: N818 - a state of the world, no fault of the caller
    """The child of an earlier execution is still being deleted: try again a little later."""


ResultOf = Callable[[str, str], Result | None]
"""Gives the last result that a pod (by UID) has reported on its node ("": not known), or raises
`ResultNotYet`."""


class KubernetesExecutor:
    """Makes attempts real in a cluster.

    Args:
        world: what the watches have shown.
        settings: gives what children are told besides the decision, as of now.
        clock: gives the time, aware.
        result_of: asked for the result of a pod that has ended and shows none.
        checkpoint: called between two effects.
    """

    def __init__(
        self,
        client: KubeClient,
        world: World,
        settings: Callable[[], ChildSettings],
        clock: Callable[[], datetime],
        result_of: ResultOf,
        checkpoint: ClusterCheckpointHook = no_cluster_checkpoint,
    ) -> None:
        self._client = client
        self._world = world
        self._settings = settings
        self._clock = clock
        self._checkpoint = checkpoint
        self._result_of = result_of

    def dry_run(self, job: JobRecord) -> None:
        """Let the API server check the child that `job` would get.

        Raises:
            Refused: with the server's words.
            TemplateError: the operator can't make a child of the template.
        """
        path = path_of(*_JOBS, namespace=job.namespace)
        self._client.create(path, dry_run_child(job, self._settings()), dry_run=True)

    def start(self, job: JobRecord, attempt: AttemptRecord, decision: Decision) -> str:
        """Create the child of `attempt`, or adopt the one that is there, and return its UID.

        Raises:
            ChildCollision: the name is a stranger's.
            ChildNotGone: the child of an execution that was preempted is not deleted yet.
            Refused: the API server does not take it.
            TemplateError: the operator can't make a child of the template.
        """
        manifest = build_child(job, attempt, decision, self._settings())
        self._checkpoint(ClusterCheckpoint.BEFORE_CREATE_CHILD)
        try:
            child = self._client.create(path_of(*_JOBS, namespace=job.namespace), manifest)
        except AlreadyExists:
            child = self._adopted(job, attempt)
        self._checkpoint(ClusterCheckpoint.AFTER_CREATE_CHILD)
        self._world.note_child(Key(job.namespace, job.name), child)
        return str(child["metadata"]["uid"])

    def observe(self, job: JobRecord, attempt: AttemptRecord) -> ChildView:
        """Return how the child of `attempt` stands, with all executions that are not stored yet.

        The cache answers while the child lives.  Before anything is concluded from an end or from
        an absence, the API server is asked, and for a result that is not there who else has it.

        Raises:
            ResultNotYet: a pod has ended without a result, and who may have it can't be asked yet.
        """
        key = Key(job.namespace, job.name)
        child = self._world.child(key, attempt.child_name)
        if child is None or child["metadata"]["uid"] != attempt.child_uid:
            child = self._live(job, attempt)
        pods: tuple[Mapping[str, Any], ...] = self._world.pods(
            key, attempt.recurrence_id, attempt.number
        )
        now = self._clock()
        container = _container(job)
        view = child_view(child, pods, container, now)
        if child is not None and _shows_a_new_end(view, attempt):
            # The watches of Jobs and pods are two: why a pod has ended may not be shown yet.
            child = self._live(job, attempt)
            view = child_view(child, pods, container, now)
        if child is None or view.is_finished:
            pods = self._all_pods(job, attempt, pods)
            view = child_view(child, pods, container, now)
        executions = _with_absent(view, attempt, pods, now)
        reported = self._reported(executions, attempt, pods)
        if reported:
            view = child_view(child, pods, container, now, reported)
            executions = _with_absent(view, attempt, pods, now, reported)
        return replace(view, executions=executions)

    def _reported(
        self,
        executions: Sequence[ExecutionRecord],
        attempt: AttemptRecord,
        pods: Sequence[Mapping[str, Any]],
    ) -> dict[str, Result]:
        """Return what others know of the pods that have just ended and show no result.

        A pod that never had a node has told nobody; only of one that is not at hand the node is
        not known.
        """
        stored = {each.uid for each in attempt.executions if each.ended_at is not None}
        nodes = {uid_of(pod): str(spec_of(pod).get("nodeName") or "") for pod in pods}
        known = {each.uid for each in attempt.executions}
        found = {}
        for each in executions:
            has_run = bool(nodes[each.uid]) if each.uid in nodes else each.uid in known
            if not has_run or each.ended_at is None or each.uid in stored or each.result:
                continue
            if (result := self._result_of(each.uid, nodes.get(each.uid, ""))) is not None:
                found[each.uid] = result
        return found

    def _live(self, job: JobRecord, attempt: AttemptRecord) -> Object | None:
        """Return the child as the API server has it; None: it is gone, from the cache as well."""
        child = self._get(job.namespace, attempt.child_name)
        if child is None or child["metadata"]["uid"] != attempt.child_uid:
            self._world.forget_child(Key(job.namespace, job.name), attempt.child_uid)
            return None
        return child

    def stop(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Ask the child to end: its pods get SIGTERM and their grace period."""
        self._checkpoint(ClusterCheckpoint.BEFORE_STOP_CHILD)
        path = path_of(*_JOBS, namespace=job.namespace, name=attempt.child_name)
        # In the foreground: it stays until its pods are gone, so their ends are seen.
        self._client.delete(path, uid=attempt.child_uid, propagation="Foreground")
        self._checkpoint(ClusterCheckpoint.AFTER_STOP_CHILD)

    def forget_gone(self, facts: JobFacts) -> None:
        """Drop the pods that are gone of all attempts whose end is stored."""
        running = [
            (recurrence.id, attempt.number)
            for recurrence in facts.recurrences
            for attempt in recurrence.attempts
            if attempt.state is not AttemptState.ENDED
        ]
        self._world.forget_gone_pods(Key(facts.job.namespace, facts.job.name), running)

    def surplus(self, facts: JobFacts) -> tuple[FinishedChild, ...]:
        """Return the finished children beyond the history limits whose results are stored."""
        job = facts.job
        times = finished_times(self._world.children(Key(job.namespace, job.name)), self._clock())
        closed = {
            attempt.child_name: attempt.outcome is Outcome.REACHED
            for recurrence in facts.recurrences
            for attempt in recurrence.attempts
            if attempt.state is AttemptState.ENDED
        }
        open_ids = [r.id for r in facts.recurrences if r.ended_at is None]
        oldest_id = min((each.id for each in facts.recurrences), default=0)
        found = []
        for child in self._world.children(Key(job.namespace, job.name)):
            metadata = child["metadata"]
            labels = metadata.get("labels") or {}
            uid, name = metadata["uid"], metadata["name"]
            if uid not in times or controller_uid(child) != job.uid:
                continue  # labels can be copied
            text = labels.get(names.LABEL_RECURRENCE, "")
            if not text.isdigit():
                continue  # somebody has changed it: not ours any more
            recurrence_id = int(text)
            # Facts hold the newest recurrences only: what is older has long been closed.
            is_old = recurrence_id < oldest_id and recurrence_id not in open_ids
            if name in closed or is_old:
                found.append(FinishedChild(name, uid, times[uid], closed.get(name, False)))
        spec = job.spec
        return surplus(
            found,
            int(spec.get("successfulJobsHistoryLimit", 3)),
            int(spec.get("failedJobsHistoryLimit", 1)),
        )

    def prune(self, namespace: str, child: FinishedChild) -> None:
        """Delete a finished child whose result is stored, with its pods."""
        self._checkpoint(ClusterCheckpoint.BEFORE_PRUNE)
        self._client.delete(path_of(*_JOBS, namespace=namespace, name=child.name), uid=child.uid)
        self._checkpoint(ClusterCheckpoint.AFTER_PRUNE)

    def _adopted(self, job: JobRecord, attempt: AttemptRecord) -> Object:
        """Return the child that has the attempt's name, if it is of its next execution."""
        child = self._get(job.namespace, attempt.child_name)
        if child is None:
            raise ChildNotGone(f"{attempt.child_name} was there and is gone: try again")
        if not owned_by(child, job.uid, attempt):
            owners = child["metadata"].get("ownerReferences") or ()
            owner = ", ".join(f"{each['kind']} {each['name']}" for each in owners) or "nobody"
            raise ChildCollision(
                f"Job {job.namespace}/{attempt.child_name} exists and is not ours (it belongs to "
                f"{owner}): delete or rename it"
            )
        if child["metadata"].get("deletionTimestamp"):
            raise ChildNotGone(f"{attempt.child_name} is being deleted")
        if self._is_stored(job, attempt, child):
            path = path_of(*_JOBS, namespace=job.namespace, name=attempt.child_name)
            self._client.delete(path, uid=child["metadata"]["uid"])
            raise ChildNotGone(f"{attempt.child_name} of the execution before is being deleted")
        return child

    def _is_stored(self, job: JobRecord, attempt: AttemptRecord, child: Object) -> bool:
        """Whether a child has finished and all that it did is stored already."""
        if not attempt.executions:
            return False
        pods = self._all_pods(job, attempt, ())
        view = child_view(child, pods, _container(job), self._clock())
        stored = {execution.uid for execution in attempt.executions}
        return view.is_finished and (not pods or {e.uid for e in view.executions} <= stored)

    def _get(self, namespace: str, name: str) -> Object | None:
        try:
            return self._client.get(path_of(*_JOBS, namespace=namespace, name=name))
        except NotFound:
            return None

    def _all_pods(
        self, job: JobRecord, attempt: AttemptRecord, seen: Sequence[Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any], ...]:
        """Return the pods that the API server has, and as last seen those that are gone."""
        selector = (
            f"{names.LABEL_JOB_UID}={job.uid},{names.LABEL_RECURRENCE}={attempt.recurrence_id},"
            f"{names.LABEL_ATTEMPT}={attempt.number}"
        )
        path = path_of(*_PODS, namespace=job.namespace)
        live = list(self._client.items(path, {"labelSelector": selector}))
        uids = {pod["metadata"]["uid"] for pod in live}
        gone = [{**pod, GONE_MARK: True} for pod in seen if pod["metadata"]["uid"] not in uids]
        return (*gone, *live)


def _container(job: JobRecord) -> str:
    return training_container(ZeusJobSpec.model_validate(job.spec)).name


def _shows_a_new_end(view: ChildView, attempt: AttemptRecord) -> bool:
    stored = {each.uid for each in attempt.executions if each.ended_at is not None}
    return any(each.ended_at is not None and each.uid not in stored for each in view.executions)


def _with_absent(
    view: ChildView,
    attempt: AttemptRecord,
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    reported: Mapping[str, Result] | None = None,
) -> tuple[ExecutionRecord, ...]:
    """Return the executions of `view`, ended where their pod is gone without a known end."""
    results = reported or {}
    gone = {pod["metadata"]["uid"] for pod in pods if pod.get(GONE_MARK)}
    found = [
        _ended(each, view, now) if each.uid in gone and each.ended_at is None else each
        for each in view.executions
    ]
    known = {each.uid for each in found}
    absent = [
        _ended(replace(each, result=results.get(each.uid, each.result)), view, now)
        for each in attempt.executions
        if each.ended_at is None and each.uid not in known
    ]
    has_ended = any(
        each.ended_at is not None and each.outcome is not Outcome.PREEMPTED
        for each in attempt.executions
    )
    if absent or has_ended:  # then the child had a pod: nothing stands in for one that never was
        found = [each for each in found if each.uid != view.uid]
    every = (*absent, *found)
    last = max(every, key=lambda each: each.started_at, default=None)
    if view.phase is ChildPhase.GONE and (last is None or last.outcome is Outcome.PREEMPTED):
        # Deleted between two pods: that is no reason to create it again.
        cancelled = ExecutionRecord(attempt.child_uid, now)
        every = (*every, _ended(cancelled, view, now))
    return every


def _ended(execution: ExecutionRecord, view: ChildView, now: datetime) -> ExecutionRecord:
    if view.phase is ChildPhase.GONE:
        outcome, reason = Outcome.CANCELLED, "its Job was deleted"
    elif view.is_finished:
        outcome, reason = Outcome.LOST, "its pod was deleted before anybody saw how it ended"
    else:
        outcome, reason = Outcome.PREEMPTED, "its pod was deleted"
    return replace(execution, ended_at=now, outcome=outcome, reason=reason)
