"""Children that can't be made: their name is taken by a stranger, or the API server says no."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.support.api import Api, Object
from tests.cluster.support.happened_once import counted, everything_happened_once
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.webhook import refused_jobs
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator import names
from zeus_operator.executors.checkpoints import ClusterCheckpoint
from zeus_operator.records import AttemptRecord
from zeus_operator.store.store import Store

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]


def labels_of_a_stranger(attempt: AttemptRecord, uid: str) -> dict[str, str]:
    return {"app": "mine"}


def labels_copied_from_a_child(attempt: AttemptRecord, uid: str) -> dict[str, str]:
    return {
        names.LABEL_JOB: "job",
        names.LABEL_JOB_UID: uid,
        names.LABEL_RECURRENCE: str(attempt.recurrence_id),
        names.LABEL_ATTEMPT: str(attempt.number),
    }


def strangers_job(name: str, labels: dict[str, str]) -> Object:
    container = {"name": "theirs", "image": "example.org/theirs:1"}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }


def decided_and_killed(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, stored: Store
) -> AttemptRecord:
    """Return an attempt that is stored, and whose child is not created yet."""
    first = make_operator().start(at=ClusterCheckpoint.BEFORE_CREATE_CHILD)
    zeusjobs.apply("job", runs=1, successfulJobsHistoryLimit=0, failedJobsHistoryLimit=0)
    assert first.wait_for_end() == -9, first.log
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    ((attempt,),) = (each.attempts for each in stored.history(record.id))
    return attempt


@pytest.mark.parametrize("labels", [labels_of_a_stranger, labels_copied_from_a_child])
def test_a_strangers_job_of_the_childs_name_is_reported_and_left_alone(
    labels: Callable[[AttemptRecord, str], dict[str, str]],
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    stored: Store,
    api: Api,
) -> None:
    started: Counter[tuple[str, str]] = Counter()
    make_node(counted(SyntheticJob(), started))
    attempt = decided_and_killed(zeusjobs, make_operator, stored)
    path = f"/apis/batch/v1/namespaces/{zeusjobs.namespace}/jobs"
    theirs = strangers_job(attempt.child_name, labels(attempt, zeusjobs.uid("job")))
    before = api.post(path, theirs)

    operator = make_operator().start().wait_until_leading()

    condition = zeusjobs.wait_for_condition("job", "Degraded", "True", "ChildCollision")
    assert f"{zeusjobs.namespace}/{attempt.child_name}" in condition["message"]
    assert "it belongs to nobody" in condition["message"]
    assert zeusjobs.condition("job", "Ready")["reason"] == "ChildCollision"
    said = eventually(lambda: zeusjobs.events("ChildCollision"), "an Event follows")
    assert [event["type"] for event in said] == ["Warning"]
    tries = operator.log.count("exists and is not ours")
    eventually(
        lambda: operator.log.count("exists and is not ours") > tries, "it tries again by itself"
    )
    after = api.get(f"{path}/{attempt.child_name}")
    for key in ("uid", "generation", "labels", "ownerReferences", "deletionTimestamp"):
        assert after["metadata"].get(key) == before["metadata"].get(key)
    managers = {each["manager"] for each in after["metadata"]["managedFields"]}
    assert names.FIELD_MANAGER not in managers
    assert not started

    api.delete(f"{path}/{attempt.child_name}", propagationPolicy="Background")

    zeusjobs.wait_for_runs("job", 1)
    zeusjobs.wait_for_condition("job", "Degraded", "False")
    everything_happened_once(zeusjobs, stored, started, 1)


def test_a_strangers_job_outlives_the_zeusjob_whose_child_it_kept_away(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, stored: Store, api: Api
) -> None:
    attempt = decided_and_killed(zeusjobs, make_operator, stored)
    path = f"/apis/batch/v1/namespaces/{zeusjobs.namespace}/jobs"
    labels = labels_copied_from_a_child(attempt, zeusjobs.uid("job"))
    before = api.post(path, strangers_job(attempt.child_name, labels))
    make_operator().start()
    zeusjobs.wait_for_condition("job", "Degraded", "True", "ChildCollision")

    zeusjobs.delete("job", propagationPolicy="Foreground")

    eventually(lambda: not stored.jobs(), "the store knows")
    after = api.get(f"{path}/{attempt.child_name}")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert "deletionTimestamp" not in after["metadata"]


@pytest.mark.parametrize("code", [401, 404])
def test_whatever_the_api_server_answers_to_a_child_is_said_in_its_words_and_heals(
    code: int,
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    api: Api,
    tmp_path: Path,
) -> None:
    """What is not said to be a matter of time needs a person."""
    make_node(SyntheticJob())
    make_operator().start().wait_until_leading()

    with refused_jobs(api, zeusjobs.namespace, code, "no training on Tuesdays", tmp_path / "hook"):
        zeusjobs.apply("job", runs=1)
        condition = zeusjobs.wait_for_condition("job", "Degraded", "True", "ChildRefused")
        assert "no training on Tuesdays" in condition["message"]
        assert not zeusjobs.jobs()

    zeusjobs.wait_for_runs("job", 1)
    zeusjobs.wait_for_condition("job", "Degraded", "False")
