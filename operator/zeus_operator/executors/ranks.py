"""What the pods of the other ranks change about the end of a run.  Pure.

The result of a run is that of its pod of rank 0.  But a run ends as a whole: where a pod of
another rank was evicted, deleted or has failed, the kind's controller ends that of rank 0 too, and
what is seen of that pod alone is that somebody deleted it.  A PyTorchJob replaces a pod that is
gone before its controller looks, and the others fail for want of the one that they had.  And where
nobody knows the result of rank 0, another rank may know how far the run had come.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from zeus_operator.executors.pod_ends import (
    DEADLINE,
    WORDS_CHARACTERS,
    claim_of,
    disturbance_of,
)
from zeus_operator.executors.pod_fields import (
    GONE_MARK,
    Object,
    condition,
    created_at,
    deletion_asked_at,
    kind_name,
    metadata_of,
    spec_of,
    status_of,
    time_of,
    uid_of,
)
from zeus_operator.executors.rank_ends import (
    Failure,
    asked_while_it_ran,
    failure_of,
    is_before,
    name_of,
    result_in,
    taken_at,
)
from zeus_operator.records import ExecutionRecord
from zeus_operator.workloads.base import Place, WorkloadKind
from zeus_runtime.protocol import Outcome, Result

_DISTURBED_WORDS = "DisruptionTarget"
_FAILED = ("Failed", "FailureTarget")


def beside(
    execution: ExecutionRecord,
    others: Sequence[Object],
    kind: WorkloadKind,
    pod: Object | None = None,
) -> list[Object]:
    """Return the pods that were there with an execution of rank 0: the newest of each place.

    Those of before a suspension, or of what prepared the run, tell nothing of it.

    Args:
        others: pods of the same child, in the order of their creation.
        pod: of rank 0, which may be older than what runs in it; None: it is not at hand.
    """
    since, until = execution.started_at, execution.ended_at
    if pod is not None:
        since = min(since, created_at(pod, since))
    newest = {
        kind.place_of(each): each
        for each in others
        if is_before(created_at(each, since), until) and is_before(since, _over_at(each))
    }
    return [newest[place] for place in sorted(newest)]


def _over_at(pod: Object) -> datetime | None:
    """Return when a pod was over; None: it is not, or nobody says."""
    if status_of(pod).get("phase") not in ("Succeeded", "Failed") and not pod.get(GONE_MARK):
        return None
    return max(_ends(pod), default=None)


def _ends(pod: Object) -> Iterator[datetime]:
    """Yield all that is known of when a pod that is over has ended."""
    for key in ("containerStatuses", "initContainerStatuses"):
        for each in status_of(pod).get(key) or ():
            ended = (each.get("state") or {}).get("terminated") or {}
            finished = time_of(ended.get("finishedAt"))
            if finished is not None:
                yield finished
    disturbance = disturbance_of(pod)
    for moment in (disturbance.at if disturbance else None, deletion_asked_at(pod)):
        if moment is not None:
            yield moment


def told_by_others(
    execution: ExecutionRecord,
    pod: Object,
    others: Sequence[Object],
    child: Object | None,
    container: str,
    kind: WorkloadKind,
    zeros: Sequence[Object] = (),
) -> ExecutionRecord:
    """Return an execution of rank 0 with what the pods of the other ranks tell of its end.

    Pods that do not train count as well: where one of them ends, its Job ends the run.

    Args:
        pod: of rank 0.
        others: pods of the same child, in the order of their creation.
        container: name of the container that trains with rank 0.
        zeros: all pods of rank 0 of the same child, in the order of their creation.
    """
    if execution.ended_at is None or execution.outcome is Outcome.CANCELLED:
        return execution
    if execution.exit_code == 0 and claim_of(execution.result) is not None:
        return execution
    if disturbance_of(pod) is not None:
        return execution
    newest = beside(execution, others, kind, pod)
    execution = _short_of_memory(execution, newest)
    told = _disturbed_by(execution, newest)
    if told is not None:
        return told
    if spec_of(child or {}).get("suspend"):
        return execution
    ranks = [each for each in others if kind.trains(each)]
    newest_ranks = [each for each in newest if kind.trains(each)]
    gone = _replaced_beside(execution, pod, ranks, container, kind) or _replaced_before(
        pod, zeros, newest_ranks, container
    )
    if gone is not None:
        disturbance = disturbance_of(gone)
        why = disturbance.words if disturbance else "it was deleted"
        words = f"{name_of(gone)} of the same run was replaced alone: {why}"
        return _with(execution, Outcome.PREEMPTED, words)
    failures = [end for each in newest if (end := failure_of(each, container)) is not None]
    if _is_going_on(child):
        taken = _taken_away(execution, pod, newest_ranks, failures, container)
        if taken is not None:
            words = f"{name_of(taken)} of the same run was deleted"
            return _with(execution, Outcome.PREEMPTED, words)
    # Of one that another came instead of, the child's end tells nothing.
    is_last = not zeros or uid_of(zeros[-1]) == uid_of(pod)
    return _ended_by(execution, pod, newest, failures, child if is_last else None, kind)


def best_partial(known: Iterable[tuple[Place, Result | None]]) -> Result | None:
    """Return the result of the rank that has come farthest, as a partial one; None: there is none.

    Of several that have come as far it is that of the lowest rank.  It does not say how the run
    ended, as only rank 0 does, but for what no rank 0 needs to confirm: that memory was short.
    """
    found = [(place, result) for place, result in known if result is not None]
    if not found:
        return None
    _, best = min(found, key=lambda each: (-_epochs(each[1]), each[0]))
    short = any(claim_of(result) is Outcome.OUT_OF_MEMORY for _, result in found)
    return replace(best, outcome=Outcome.OUT_OF_MEMORY.value if short else None)


def _epochs(result: Result) -> int:
    return result.epochs if isinstance(result.epochs, int) else 0


def _short_of_memory(execution: ExecutionRecord, others: Iterable[Object]) -> ExecutionRecord:
    """Return the execution with what another rank claims: that the memory of its GPU was short.

    Rank 0 sees no more of it than that its peer is gone.  Where rank 0 shows no result an agent may
    still know it; if none does, `best_partial` says of the others' that memory was short.
    """
    if execution.result is None or claim_of(execution.result) is not None:
        return execution
    for found in map(result_in, others):
        if found is not None and claim_of(found) is Outcome.OUT_OF_MEMORY:
            return replace(execution, result=replace(execution.result, outcome=found.outcome))
    return execution


def _disturbed_by(execution: ExecutionRecord, others: Sequence[Object]) -> ExecutionRecord | None:
    """Return the execution as ended by who disturbed another pod; None: nobody did."""
    for pod in others:
        disturbance = disturbance_of(pod)
        if disturbance is not None and is_before(disturbance.at, execution.ended_at):
            words = f"{name_of(pod)} of the same run: {disturbance.words}"
            return _with(execution, Outcome.PREEMPTED, words)
    return None


def _replaced_beside(
    execution: ExecutionRecord,
    pod: Object,
    ranks: Sequence[Object],
    container: str,
    kind: WorkloadKind,
) -> Object | None:
    """Return a pod of another rank that was taken away while rank 0 ran, and made anew.

    Where all are made anew, as after a suspension, that of rank 0 is younger than what ended them.

    Args:
        pod: of rank 0.
        ranks: pods of the other ranks, in the order of their creation.
    """
    since, asked = created_at(pod, execution.started_at), deletion_asked_at(pod)
    instead: dict[Place, Object] = {}
    found = None
    for each in reversed(ranks):
        later = instead.get(kind.place_of(each))
        instead[kind.place_of(each)] = each
        taken = None if later is None else taken_at(each, container, later)
        if taken is None or taken <= since or (asked is not None and taken >= asked):
            continue
        if is_before(taken, execution.ended_at):
            found = each
    return found


def _replaced_before(
    pod: Object, zeros: Sequence[Object], newest: Sequence[Object], container: str
) -> Object | None:
    """Return the pod of rank 0 that was taken away, where the other ranks are still its own.

    Args:
        pod: of rank 0, which came instead.
        zeros: all pods of rank 0, in the order of their creation.
        newest: pods of the other ranks, the newest of each.
    """
    place = next((n for n, each in enumerate(zeros) if uid_of(each) == uid_of(pod)), 0)
    for each, later in reversed(list(itertools.pairwise(zeros[: place + 1]))):
        taken = taken_at(each, container, later)
        if taken is not None and any(_outlived(other, taken) for other in newest):
            return each
    return None


def _outlived(pod: Object, moment: datetime) -> bool:
    """Return whether a pod was there before `moment` and was not ended with it."""
    disturbance, asked = disturbance_of(pod), deletion_asked_at(pod)
    ends = (asked, disturbance.at if disturbance else None)
    return created_at(pod, moment) < moment and all(end is None or end > moment for end in ends)


def _is_going_on(child: Object | None) -> bool:
    """Return whether pods of a child are deleted for no reason of its own, if they are."""
    if child is None or metadata_of(child).get("deletionTimestamp"):
        return False
    return not any(condition(child, each).get("reason") == DEADLINE for each in _FAILED)


def _taken_away(
    execution: ExecutionRecord,
    pod: Object,
    ranks: Sequence[Object],
    failures: Sequence[Failure],
    container: str,
) -> Object | None:
    """Return the first other rank that was asked to end before rank 0 was, or ended by itself.

    The controllers count a pod that is deleted as one that has failed, and end the others; or these
    fail for want of it.

    Args:
        pod: of rank 0.
        ranks: the newest pod of each of the other ranks.
        failures: of all pods: what failed before is why the others were deleted.
    """
    has_failed = execution.outcome is None and bool(execution.exit_code)
    if execution.outcome is not Outcome.PREEMPTED and not has_failed:
        return None
    since = created_at(pod, execution.started_at)
    until = min(filter(None, (deletion_asked_at(pod), execution.ended_at)))
    asked = [
        (moment, each)
        for each in ranks
        if (moment := asked_while_it_ran(each, container)) is not None and since < moment < until
    ]
    if not asked:
        return None
    first, found = min(asked, key=lambda each: each[0])
    return None if any(is_before(each.at, first) for each in failures) else found


def _ended_by(
    execution: ExecutionRecord,
    pod: Object,
    others: Sequence[Object],
    failures: Sequence[Failure],
    child: Object | None,
    kind: WorkloadKind,
) -> ExecutionRecord:
    """Return the execution with the cause of its end, if that was another pod's failure.

    Args:
        pod: of rank 0.
        failures: of the others.
    """
    if execution.outcome is not Outcome.PREEMPTED:
        return execution
    # Rank 0 was deleted.  Nothing restarts, so a rank that has failed is why; the child may say so
    # a little later, as a TrainJob does, which learns of it from its JobSet.
    asked = deletion_asked_at(pod)
    causes = [each for each in failures if is_before(each.at, asked)]
    if causes:
        cause = min(causes, key=lambda each: (each.at is None, each.at or execution.started_at))
        return _with(execution, Outcome.CRASHED, cause.words)
    failed = next(filter(None, (condition(child, each) for each in _FAILED)), None)
    if failures or not failed:
        return execution  # they have failed for want of rank 0
    said = str(failed.get("message") or failed.get("reason") or "")
    if _DISTURBED_WORDS in said:
        return _with(execution, Outcome.PREEMPTED, f"a pod of the same run was disturbed: {said}")
    if kind.fails_by_pods_alone or _is_first(asked, others):
        return execution
    return _with(execution, Outcome.CRASHED, f"its {kind_name(child)} has failed: {said}")


def _is_first(asked: datetime | None, others: Iterable[Object]) -> bool:
    """Return whether rank 0 was asked to end before all that were: then they were for its sake."""
    moments = [moment for each in others if (moment := deletion_asked_at(each)) is not None]
    return asked is not None and bool(moments) and asked < min(moments)


def _with(execution: ExecutionRecord, outcome: Outcome, words: str) -> ExecutionRecord:
    return replace(execution, outcome=outcome, reason=words[:WORDS_CHARACTERS])
