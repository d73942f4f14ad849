"""Attempts as workloads: created once, adopted after a crash, watched, stopped, pruned.

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
from zeus_operator.api.problems import TemplateError
from zeus_operator.api.template import training_container
from zeus_operator.api.types import ZeusJobSpec
from zeus_operator.executors.absent import shows_a_new_end, with_absent
from zeus_operator.executors.base import ChildCollision, ResultNotYet
from zeus_operator.executors.checkpoints import (
    ClusterCheckpoint,
    ClusterCheckpointHook,
    no_cluster_checkpoint,
)
from zeus_operator.executors.child import (
    ChildSettings,
    Manifests,
    build_manifests,
    dry_run_manifests,
    owned_by,
)
from zeus_operator.executors.companions import ChildNotGone, Companions
from zeus_operator.executors.pod_fields import GONE_MARK, as_first_asked, spec_of, uid_of
from zeus_operator.executors.pods import ChildView, child_view, own_pods
from zeus_operator.executors.pruning import FinishedChild, closed_children, surplus
from zeus_operator.executors.rank_ends import result_in
from zeus_operator.executors.ranks import beside, best_partial
from zeus_operator.kube import AlreadyExists, KubeClient, NotFound, Refused, path_of
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobFacts,
    JobRecord,
)
from zeus_operator.workloads.base import RANK_ZERO, WorkloadKind
from zeus_operator.workloads.labels import mark_of
from zeus_operator.workloads.registry import KINDS, kind_of_spec
from zeus_operator.workloads.served import Refusal, ServedKinds
from zeus_operator.world import Key, World
from zeus_runtime.protocol import Decision, ProtocolError, Result

__all__ = ["ChildNotGone", "KubernetesExecutor"]

Object = dict[str, Any]

_PODS = ("v1", "pods")


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
        kinds: of children that are served; None: Jobs alone.
    """

    def __init__(
        self,
        client: KubeClient,
        world: World,
        settings: Callable[[], ChildSettings],
        clock: Callable[[], datetime],
        result_of: ResultOf,
        checkpoint: ClusterCheckpointHook = no_cluster_checkpoint,
        kinds: ServedKinds | None = None,
    ) -> None:
        self._client = client
        self._world = world
        self._settings = settings
        self._clock = clock
        self._checkpoint = checkpoint
        self._result_of = result_of
        self._kinds = kinds or ServedKinds()
        self._companions = Companions(client)

    def unserved(self, job: JobRecord) -> Refusal | None:
        """Return why children of the kind that `job` wants are not served; None: they are."""
        return self._kinds.refusal(kind_of_spec(job.spec).kind)

    def dry_run(self, job: JobRecord) -> None:
        """Let the API server check the child that `job` would get.

        Raises:
            Refused: with the server's words.
            TemplateError: the operator can't make a child of the template.
        """
        kind = kind_of_spec(job.spec)
        manifests = dry_run_manifests(job, self._settings(), self._source(job))
        if manifests.companion is not None:
            self._companions.dry_run(job.namespace, manifests.companion)
            # That was not made: the child is tried with what it is a copy of.
            template = job.spec["workload"]["template"]["spec"]
            spec = kind.without_companion(manifests.child["spec"], template)
            manifests = Manifests({**manifests.child, "spec": spec})
        self._client.create(_children(kind, job.namespace), manifests.child, dry_run=True)

    def start(self, job: JobRecord, attempt: AttemptRecord, decision: Decision) -> str:
        """Create the child of `attempt`, or adopt the one that is there, and return its UID.

        Raises:
            ChildCollision: the name is a stranger's.
            ChildNotGone: the child of an execution that was preempted is not deleted yet.
            Refused: the API server does not take it.
            TemplateError: the operator can't make a child of the template.
        """
        kind = kind_of_spec(job.spec)
        try:
            manifests = build_manifests(job, attempt, decision, self._settings(), self._source(job))
        except (TemplateError, ProtocolError, Refused, NotFound):
            child = self._left(job, attempt)
            if child is None:
                raise
            return self._noted(job, child)
        self._checkpoint(ClusterCheckpoint.BEFORE_CREATE_CHILD)
        known, companion = None, None
        if manifests.companion is not None:
            known = self._get(kind, job.namespace, attempt.child_name)
            companion = self._companions.ensure(
                job, manifests.companion, is_in_use=known is not None
            )
            self._checkpoint(ClusterCheckpoint.AFTER_CREATE_COMPANION)
        try:
            # What was looked for and found is never made: its companion was chosen to be that.
            make = None if known else manifests.child
            child = self._made_or_adopted(job, attempt, make)
        except (Refused, ChildCollision):
            if companion is not None:
                self._companions.drop(companion, job)
            raise
        self._checkpoint(ClusterCheckpoint.AFTER_CREATE_CHILD)
        if companion is not None:
            self._companions.hand_over(companion, child, kind)
        return self._noted(job, child)

    def _left(self, job: JobRecord, attempt: AttemptRecord) -> Object | None:
        """Return the child that an operator made which refused less; None: there is none.

        It died before it could store so.  Nobody else would know of that child.
        """
        kind = kind_of_spec(job.spec)
        child = self._get(kind, job.namespace, attempt.child_name)
        if child is None or not owned_by(child, job.uid, attempt):
            return None
        child = self._adopted(job, attempt)
        self._companions.hand_over_left(job, child, kind)
        return child

    def _noted(self, job: JobRecord, child: Object) -> str:
        self._world.note_child(Key(job.namespace, job.name), child)
        return str(child["metadata"]["uid"])

    def _source(self, job: JobRecord) -> Object | None:
        """Return what the child is made from besides the ZeusJob.

        Raises:
            Refused, NotFound: it can't be read, with the server's words.
        """
        spec = job.spec["workload"]["template"]["spec"]
        source = kind_of_spec(job.spec).source(spec, job.namespace)
        return None if source is None else self._companions.read(source)

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
        container, kind = _container(job), kind_of_spec(job.spec)
        view = child_view(child, pods, container, now, kind=kind)
        if child is not None and shows_a_new_end(view, attempt):
            # The watches of Jobs and pods are two: why a pod has ended may not be shown yet.
            child = self._live(job, attempt)
            view = child_view(child, pods, container, now, kind=kind)
        if child is None or view.is_finished:
            pods = self._all_pods(job, attempt, pods)
            view = child_view(child, pods, container, now, kind=kind)
        executions = with_absent(view, attempt, pods, now, kind)
        others = [p for p in own_pods(child, pods, kind, now) if kind.place_of(p) != RANK_ZERO]
        reported = self._reported(executions, attempt, pods, others, kind)
        if reported:
            view = child_view(child, pods, container, now, reported, kind)
            executions = with_absent(view, attempt, pods, now, kind, reported)
        return replace(view, executions=executions)

    def _reported(
        self,
        executions: Sequence[ExecutionRecord],
        attempt: AttemptRecord,
        pods: Sequence[Mapping[str, Any]],
        others: Sequence[Mapping[str, Any]],
        kind: WorkloadKind,
    ) -> dict[str, Result]:
        """Return what others know of the pods that have just ended and show no result.

        Where nobody knows the result of rank 0, what is known of `others`, the pods of the other
        ranks, counts as a partial one.  A pod that never had a node has told nobody; only of one
        that is not at hand the node is not known.

        Raises:
            ResultNotYet: of some of them it can't be known yet.  All have been asked, so that what
                is waited for is waited for at the same time.
        """
        waits: list[ResultNotYet] = []
        stored = {each.uid for each in attempt.executions if each.ended_at is not None}
        nodes = {uid_of(pod): str(spec_of(pod).get("nodeName") or "") for pod in pods}
        known = {each.uid for each in attempt.executions}
        found = {}
        for each in executions:
            has_run = bool(nodes[each.uid]) if each.uid in nodes else each.uid in known
            if not has_run or each.ended_at is None or each.uid in stored or each.result:
                continue
            result = self._asked(each.uid, nodes.get(each.uid, ""), waits)
            if result is None:
                ranks = [pod for pod in beside(each, others, kind) if kind.trains(pod)]
                result = best_partial(
                    (kind.place_of(pod), result_in(pod) or self._asked(uid_of(pod), node, waits))
                    for pod in ranks
                    if (node := nodes[uid_of(pod)])
                )
            if result is not None:
                found[each.uid] = result
        if waits:
            raise waits[0]
        return found

    def _asked(self, pod_uid: str, node: str, waits: list[ResultNotYet]) -> Result | None:
        """Return what is known of the result of a pod; where that is to be waited for, note it."""
        try:
            return self._result_of(pod_uid, node)
        except ResultNotYet as error:
            waits.append(error)
            return None

    def _live(self, job: JobRecord, attempt: AttemptRecord) -> Object | None:
        """Return the child as the API server has it; None: it is gone, from the cache as well."""
        child = self._get(kind_of_spec(job.spec), job.namespace, attempt.child_name)
        if child is None or child["metadata"]["uid"] != attempt.child_uid:
            self._world.forget_child(Key(job.namespace, job.name), attempt.child_uid)
            return None
        return child

    def stop(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Ask the child to end: its pods get SIGTERM and their grace period."""
        self._checkpoint(ClusterCheckpoint.BEFORE_STOP_CHILD)
        path = _children(kind_of_spec(job.spec), job.namespace, attempt.child_name)
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
        children = self._world.children(Key(job.namespace, job.name))
        return surplus(
            closed_children(facts, children, self._clock()),
            int(job.spec.get("successfulJobsHistoryLimit", 3)),
            int(job.spec.get("failedJobsHistoryLimit", 1)),
        )

    def prune(self, namespace: str, child: FinishedChild) -> None:
        """Delete a finished child whose result is stored, with its pods."""
        self._checkpoint(ClusterCheckpoint.BEFORE_PRUNE)
        self._client.delete(_children(KINDS[child.kind], namespace, child.name), uid=child.uid)
        self._checkpoint(ClusterCheckpoint.AFTER_PRUNE)

    def _made_or_adopted(
        self, job: JobRecord, attempt: AttemptRecord, manifest: Object | None
    ) -> Object:
        """Return the child that is made of a manifest, or is there; None: it is there."""
        if manifest is None:
            return self._adopted(job, attempt)
        kind = kind_of_spec(job.spec)
        try:
            return kind.project(self._client.create(_children(kind, job.namespace), manifest))
        except AlreadyExists:
            return self._adopted(job, attempt)

    def _adopted(self, job: JobRecord, attempt: AttemptRecord) -> Object:
        """Return the child that has the attempt's name, if it is of its next execution."""
        kind = kind_of_spec(job.spec)
        child = self._get(kind, job.namespace, attempt.child_name)
        if child is None:
            raise ChildNotGone(f"{attempt.child_name} was there and is gone: try again")
        if not owned_by(child, job.uid, attempt):
            owners = child["metadata"].get("ownerReferences") or ()
            owner = ", ".join(f"{each['kind']} {each['name']}" for each in owners) or "nobody"
            raise ChildCollision(
                f"{kind.kind} {job.namespace}/{attempt.child_name} exists and is not ours (it "
                f"belongs to {owner}): delete or rename it"
            )
        if child["metadata"].get("deletionTimestamp"):
            raise ChildNotGone(f"{attempt.child_name} is being deleted")
        if self._is_stored(job, attempt, child):
            path = _children(kind, job.namespace, attempt.child_name)
            # In the foreground: the name is free once all that is named after it is gone.  Else a
            # JobSet would take the failed Jobs of the one before for its own.
            self._client.delete(path, uid=child["metadata"]["uid"], propagation="Foreground")
            raise ChildNotGone(f"{attempt.child_name} of the execution before is being deleted")
        return child

    def _is_stored(self, job: JobRecord, attempt: AttemptRecord, child: Object) -> bool:
        """Whether a child has finished and all that it did is stored already."""
        if not attempt.executions:
            return False
        kind, now = kind_of_spec(job.spec), self._clock()
        # Those of a child before have the labels of the same attempt.
        pods = own_pods(child, self._all_pods(job, attempt, ()), kind, now)
        view = child_view(child, pods, _container(job), now, kind=kind)
        if not view.is_finished:
            return False
        if any(kind.place_of(pod) == RANK_ZERO for pod in pods):
            return {e.uid for e in view.executions} <= {e.uid for e in attempt.executions}
        # Its pods are gone: its mark tells whether it was made for one of the stored executions.
        return not (kind.marks_executions and mark_of(child) == str(len(attempt.executions)))

    def _get(self, kind: WorkloadKind, namespace: str, name: str) -> Object | None:
        """Return a child as its adapter projects it."""
        try:
            return kind.project(self._client.get(_children(kind, namespace, name)))
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
        known = {uid_of(pod): pod for pod in seen}
        live = [
            as_first_asked(pod, known.pop(uid_of(pod), None))
            for pod in self._client.items(path, {"labelSelector": selector})
        ]
        return (*({**pod, GONE_MARK: True} for pod in known.values()), *live)


def _children(kind: WorkloadKind, namespace: str, name: str = "") -> str:
    """Return the path of the children of a kind, or of one."""
    return path_of(kind.api_version, kind.plural, namespace, name)


def _container(job: JobRecord) -> str:
    return training_container(ZeusJobSpec.model_validate(job.spec)).name
