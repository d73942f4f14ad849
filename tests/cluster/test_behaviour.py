"""What a ZeusJob does in a cluster: asked for, suspended, disturbed, changed, refused, deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.support.api import Api
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import (
    Gate,
    crashed,
    deleted,
    evicted,
    held,
    image_pull_error,
    in_turn,
    out_of_memory_killed,
    unschedulable,
)
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.records import RecurrenceRecord
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]


@pytest.fixture
def operator(make_operator: MakeOperator) -> OperatorProcess:
    return make_operator().start().wait_until_leading()


def history(zeusjobs: ZeusJobs, stored: Store, name: str = "job") -> tuple[RecurrenceRecord, ...]:
    record = stored.job_by_uid(zeusjobs.uid(name))
    assert record is not None
    return stored.history(record.id)


# Asked for ------------------------------------------------------------------------


def test_an_annotation_asks_for_runs_once(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    make_node(SyntheticJob())
    zeusjobs.apply("job")
    zeusjobs.wait_for_condition("job", "Progressing", "False", "OnDemand")

    zeusjobs.annotate("job", run="tuesday,runs=2")
    zeusjobs.wait_for_runs("job", 2)
    zeusjobs.annotate("job", run="wednesday,kind=control")
    zeusjobs.wait_for_runs("job", 3)
    zeusjobs.annotate("job", run="tuesday,runs=2")  # again, as a repeated `kubectl apply` does
    zeusjobs.annotate("job", run="thursday")
    runs = zeusjobs.wait_for_runs("job", 4)

    assert len(runs) == 4
    assert [run["kind"] for run in runs] == ["Learned", "Control", "Learned", "Learned"]


def test_an_annotation_that_can_not_be_read_is_said(
    zeusjobs: ZeusJobs, operator: OperatorProcess
) -> None:
    zeusjobs.apply("job")
    zeusjobs.annotate("job", run="three times please")

    condition = zeusjobs.wait_for_condition("job", "Degraded", "True", "InvalidRequest")

    assert 'metadata.annotations["zeus.energy/run"]' in condition["message"]
    assert "nightly-7,runs=3" in condition["message"]
    assert zeusjobs.condition("job", "Ready")["status"] == "True"


def test_suspend_holds_what_is_asked_for(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    zeusjobs.apply("job", suspend=True, runs=1)
    zeusjobs.wait_for_condition("job", "Suspended", "True", "SpecSuspend")
    assert zeusjobs.jobs() == []

    zeusjobs.patch("job", {"spec": {"suspend": False}})

    zeusjobs.wait_for_runs("job", 1)
    zeusjobs.wait_for_condition("job", "Suspended", "False")


def test_more_runs_in_the_spec_are_as_many_more(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_runs("job", 1)

    zeusjobs.patch("job", {"spec": {"runs": 3}})

    zeusjobs.wait_for_runs("job", 3)


def test_reset_erases_the_history_once(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    make_node(SyntheticJob())
    zeusjobs.apply("job")
    zeusjobs.annotate("job", run="a,runs=2")
    zeusjobs.wait_for_runs("job", 2)

    zeusjobs.annotate("job", reset="now")
    eventually(lambda: not history(zeusjobs, stored), "the history is erased")
    zeusjobs.wait_for("so says the status", lambda: not zeusjobs.status("job").get("runs"))
    zeusjobs.annotate("job", run="b")
    zeusjobs.wait_for_runs("job", 1)

    assert len(history(zeusjobs, stored)) == 1, "the reset is not done again"


def test_a_reset_that_has_waited_for_a_run_is_done_when_that_ends(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    gate = Gate()
    make_node(held(gate, SyntheticJob()))
    zeusjobs.apply("job")
    zeusjobs.annotate("job", run="a")
    zeusjobs.wait_for("a run is going on", lambda: bool(zeusjobs.status("job").get("active")))
    zeusjobs.annotate("job", reset="now")
    zeusjobs.wait_for(
        "the reset waits",
        lambda: "the history is erased" in zeusjobs.condition("job", "Progressing")["message"],
    )

    gate.open()

    eventually(lambda: not history(zeusjobs, stored), "the history is erased")


# Disturbed ------------------------------------------------------------------------


def test_an_evicted_pod_is_replaced_under_the_same_decision(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    job = SyntheticJob()
    make_node(in_turn(lambda run: evicted(job.partial(run, 3)), job))
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_runs("job", 1)

    (recurrence,) = history(zeusjobs, stored)
    (attempt,) = recurrence.attempts
    first, second = attempt.executions
    assert (first.outcome, second.outcome) == (Outcome.PREEMPTED, None)
    assert "low on resource: memory" in first.reason
    assert first.result is not None
    assert second.result is not None
    assert first.result.energy_joules is not None
    assert second.result.energy_joules is not None
    assert attempt.outcome is Outcome.REACHED
    both = first.result.energy_joules + second.result.energy_joules
    assert attempt.energy_joules == pytest.approx(both)
    assert "low on resource" in zeusjobs.events("Preempted")[0]["message"]


def test_a_pod_that_a_person_deletes_is_run_again_by_a_new_child_of_that_name(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    make_node(in_turn(deleted(), SyntheticJob()))
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_runs("job", 1)

    (recurrence,) = history(zeusjobs, stored)
    (attempt,) = recurrence.attempts
    assert [each.outcome for each in attempt.executions] == [Outcome.PREEMPTED, None]
    assert [child["metadata"]["name"] for child in zeusjobs.jobs()] == [attempt.child_name]


def test_a_child_that_a_person_deletes_is_not_made_again(
    zeusjobs: ZeusJobs,
    operator: OperatorProcess,
    make_node: MakeNode,
    stored: Store,
    api: Api,
) -> None:
    make_node(held(Gate(), SyntheticJob()))
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")
    (child,) = zeusjobs.jobs()
    path = f"/apis/batch/v1/namespaces/{zeusjobs.namespace}/jobs/{child['metadata']['name']}"

    api.delete(path, propagationPolicy="Background")

    runs = zeusjobs.wait_for_runs("job", 1)
    assert runs[0]["outcome"] == "Cancelled"
    assert runs[0]["detail"] == "its Job was deleted"
    assert zeusjobs.jobs() == []


def test_failures_are_told_apart_and_the_next_attempt_follows(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    job = SyntheticJob()
    ends = in_turn(
        crashed(log="ValueError: no such column"),
        lambda run: crashed(result=job.partial(run, 2)),
        lambda run: out_of_memory_killed(job.partial(run, 2)),
        job.out_of_memory,
        job,
    )
    make_node(ends)
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_runs("job", 1)

    (recurrence,) = history(zeusjobs, stored)
    assert [attempt.outcome for attempt in recurrence.attempts] == [
        Outcome.CRASHED,
        Outcome.CRASHED,
        Outcome.CRASHED,
        Outcome.OUT_OF_MEMORY,
        Outcome.REACHED,
    ]
    words = [attempt.detail for attempt in recurrence.attempts]
    assert "exit code 1" in words[0]
    assert words[2].startswith("OOMKilled")
    assert "does not fit into" in words[3]
    assert [event["type"] for event in zeusjobs.events("OutOfMemory")] == ["Warning"]


def test_after_failures_in_a_row_it_pauses_until_somebody_resumes(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode
) -> None:
    node = make_node(in_turn(crashed()))
    zeusjobs.apply("job", runs=4, retry={"maxAttempts": 1, "pauseAfterFailures": 2})
    condition = zeusjobs.wait_for_condition("job", "Degraded", "True", "PausedAfterFailures")
    assert "paused after 2 failed recurrences in a row" in condition["message"]
    assert zeusjobs.status("job")["totals"]["recurrences"] == 2

    node.trainer = SyntheticJob()
    zeusjobs.annotate("job", resume="repaired")

    zeusjobs.wait_for_runs("job", 4)
    zeusjobs.wait_for_condition("job", "Degraded", "False")


@pytest.mark.parametrize(
    ("trouble", "kind", "reason", "words"),
    [
        (image_pull_error, "Degraded", "ImagePullFailed", "Back-off pulling image"),
        (unschedulable, "Progressing", "Unschedulable", "Insufficient nvidia.com/gpu"),
    ],
)
def test_what_keeps_a_pod_from_starting_is_said_and_heals(
    zeusjobs: ZeusJobs,
    operator: OperatorProcess,
    make_node: MakeNode,
    trouble: Callable[..., object],
    kind: str,
    reason: str,
    words: str,
) -> None:
    gate = Gate()
    make_node(trouble(gate, SyntheticJob()))
    zeusjobs.apply("job", runs=1)
    condition = zeusjobs.wait_for_condition("job", kind, "True", reason)
    assert words in condition["message"]

    gate.open()

    runs = zeusjobs.wait_for_runs("job", 1)
    assert runs[0]["outcome"] == "Reached"
    zeusjobs.wait_for_condition("job", "Degraded", "False")


# Refused --------------------------------------------------------------------------


def test_a_child_that_the_api_server_refuses_is_said_in_its_words_and_heals(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, api: Api
) -> None:
    make_node(SyntheticJob())
    quotas = f"/api/v1/namespaces/{zeusjobs.namespace}/resourcequotas"
    api.post(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}})
    eventually(
        lambda: api.get(f"{quotas}/none").get("status", {}).get("hard"), "the quota is enforced"
    )
    zeusjobs.apply("job", runs=1)
    condition = zeusjobs.wait_for_condition("job", "Ready", "False", "ChildRefused")
    assert "exceeded quota" in condition["message"]
    assert zeusjobs.condition("job", "Degraded")["status"] == "True"

    api.delete(f"{quotas}/none")

    zeusjobs.wait_for_runs("job", 1)
    zeusjobs.wait_for_condition("job", "Ready", "True")


def test_what_no_schema_can_say_is_said_in_a_condition(
    zeusjobs: ZeusJobs, operator: OperatorProcess
) -> None:
    zeusjobs.apply("job", schedule="0 0 31 2 *")

    condition = zeusjobs.wait_for_condition("job", "Ready", "False", "Invalid")
    assert condition["message"].startswith("spec.schedule: '0 0 31 2 *': day-of-month")
    zeusjobs.patch("job", {"spec": {"schedule": "1 2 * * *"}})

    zeusjobs.wait_for_condition("job", "Ready", "True")
    zeusjobs.wait_for_condition("job", "Progressing", "False", "WaitingForSchedule")
    assert zeusjobs.status("job")["nextScheduleTime"].endswith("T02:01:00Z")


# Deleted --------------------------------------------------------------------------


def test_a_deleted_zeusjob_takes_its_children_along_and_its_learning_stays(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    node = make_node(SyntheticJob())
    zeusjobs.apply("job", runs=2)
    zeusjobs.wait_for_runs("job", 2)
    node.trainer = held(Gate(), SyntheticJob())
    zeusjobs.annotate("job", run="one-more")
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    zeusjobs.delete("job")
    eventually(lambda: not zeusjobs.jobs(), "the children are gone")
    eventually(lambda: not stored.jobs(), "the store knows")
    node.trainer = SyntheticJob()
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for("it runs", lambda: len(zeusjobs.status("job").get("runs") or ()) >= 4)

    states = [each.state.value for each in history(zeusjobs, stored)]
    assert states == ["reached", "reached", "cancelled", "reached"]


def test_with_deletion_policy_delete_its_learning_goes_as_well(
    zeusjobs: ZeusJobs, operator: OperatorProcess, make_node: MakeNode, stored: Store
) -> None:
    make_node(SyntheticJob())
    zeusjobs.apply("job", runs=1, deletionPolicy="Delete")
    zeusjobs.wait_for_runs("job", 1)
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None

    zeusjobs.delete("job")

    namespace = zeusjobs.namespace
    eventually(lambda: stored.latest_job(namespace, "job") is None, "nothing of it is left")


def test_a_deletion_while_no_operator_runs_is_found_afterwards(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, stored: Store
) -> None:
    make_node(SyntheticJob())
    first = make_operator().start().wait_until_leading()
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_runs("job", 1)
    assert first.stop() == 0

    zeusjobs.delete("job")
    eventually(lambda: not zeusjobs.jobs(), "nothing holds it: no finalizer")
    assert stored.job(zeusjobs.namespace, "job") is not None

    make_operator(resync_seconds="10", absence_confirm_seconds="5").start()
    gone = lambda: stored.job(zeusjobs.namespace, "job") is None  # noqa: E731
    eventually(gone, "two lists have lacked it")


def test_a_namespace_goes_with_all_that_is_in_it(
    cluster: ControlPlane,
    zeusjobs: ZeusJobs,
    operator: OperatorProcess,
    make_node: MakeNode,
    stored: Store,
    api: Api,
) -> None:
    make_node(held(Gate(), SyntheticJob()))
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    api.delete(f"/api/v1/namespaces/{zeusjobs.namespace}")

    gone = lambda: api.find(f"/api/v1/namespaces/{zeusjobs.namespace}") is None  # noqa: E731
    eventually(gone, "nothing keeps the namespace")
    eventually(lambda: not stored.jobs(), "the store knows")
    assert not operator.has_ended
