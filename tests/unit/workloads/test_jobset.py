"""A JobSet: its first entry has rank 0, nothing of it restarts, its end is that of a Job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support import api_objects as api
from tests.support.jobs import execution_of
from tests.support.workloads import (
    EVERYTHING,
    job_of,
    made_of,
    pod_template,
    said_of,
    variables,
)
from zeus_operator.api.template import TemplateError
from zeus_operator.executors.child import dry_run_manifests
from zeus_operator.records import JobRecord
from zeus_operator.workloads.base import RANK_ZERO
from zeus_operator.workloads.batch import END_WITH_A_DISTURBED_POD, REPLACE_DISTURBED_PODS_OF_A_SET
from zeus_operator.workloads.registry import KINDS

KIND = KINDS["JobSet"]
SPEC = "spec.workload.template.spec"


def entry(name: str, container: str = "train", **job: Any) -> dict[str, Any]:
    spec = {"template": pod_template(container), **job}
    return {"name": name, "replicas": 1, "template": {"spec": spec}}


def jobset(*entries: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"replicatedJobs": list(entries or [entry("node")]), **fields}


def jobs(child: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["template"]["spec"] for each in child["spec"]["replicatedJobs"]]


def test_pods_of_every_entry_know_the_decision_and_their_place() -> None:
    job = job_of("JobSet", jobset(entry("leader"), entry("workers")), injectRuntime=True)

    child = made_of(job, executions=(execution_of(None, uid="pod-1"),)).child

    assert (child["apiVersion"], child["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    for group, spec in enumerate(jobs(child)):
        template = spec["template"]
        labels = template["metadata"]["labels"]
        assert labels["zeus.energy/pod-group"] == str(group)
        assert labels["zeus.energy/execution"] == "1"
        assert variables(template["spec"])["ZEUS_BATCH_SIZE"] == "64"
        (container,) = template["spec"]["containers"]
        assert container["command"] == ["/zeus/launch", "torchrun", "train.py"]
        assert [each["name"] for each in template["spec"]["volumes"]] == [
            "zeus-runtime",
            "zeus-agent-token",
        ]
    assert child["metadata"]["labels"]["zeus.energy/execution"] == "1"


def test_it_tries_once_and_its_jobs_as_well() -> None:
    child = made_of(
        job_of(
            "JobSet",
            jobset(
                entry("node", ttlSecondsAfterFinished=5),
                entry("other"),
                ttlSecondsAfterFinished=60,
                successPolicy={"operator": "All"},
            ),
        )
    ).child["spec"]

    assert child["failurePolicy"] == {"maxRestarts": 0}
    assert "ttlSecondsAfterFinished" not in child
    assert child["successPolicy"] == {"operator": "All"}
    for spec in jobs({"spec": child}):
        assert spec["backoffLimit"] == 0
        assert spec["completionMode"] == "Indexed"
        assert "ttlSecondsAfterFinished" not in spec
        assert spec["podFailurePolicy"] == END_WITH_A_DISTURBED_POD
        assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_a_run_of_one_pod_goes_on_in_the_pod_that_replaces_it() -> None:
    (spec,) = jobs(made_of(job_of("JobSet", jobset())).child)

    assert spec["podFailurePolicy"] == REPLACE_DISTURBED_PODS_OF_A_SET


ENTRY = f"{SPEC}.replicatedJobs[0].template.spec"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "restarts": (jobset(failurePolicy={"maxRestarts": 2}), f"{SPEC}.failurePolicy.maxRestarts"),
    "a Service for all children": (
        jobset(network={"subdomain": "ranks"}),
        f"{SPEC}.network.subdomain",
    ),
    "restarts without end": (
        jobset(failurePolicy={"rules": [{"action": "RestartJobSetAndIgnoreMaxRestarts"}]}),
        f"{SPEC}.failurePolicy.rules[0].action",
    ),
    "retries of a Job": (jobset(entry("node", backoffLimit=3)), f"{ENTRY}.backoffLimit"),
    "restarts of a pod": (
        jobset(entry("node", template=pod_template(restartPolicy="OnFailure"))),
        f"{ENTRY}.template.spec.restartPolicy",
    ),
    "pods one after another": (jobset(entry("node", completions=3)), f"{ENTRY}.completions"),
    "pods that overlap": (
        jobset(entry("node", podReplacementPolicy="TerminatingOrFailed")),
        f"{ENTRY}.podReplacementPolicy",
    ),
    "a deadline of a Job": (
        jobset(entry("node"), entry("other", activeDeadlineSeconds=60)),
        f"{SPEC}.replicatedJobs[1].template.spec.activeDeadlineSeconds",
    ),
    "an end with any Job": (
        jobset(successPolicy={"operator": "Any"}),
        f"{SPEC}.successPolicy.operator",
    ),
    "an end without rank 0": (
        jobset(
            entry("node"),
            entry("other"),
            successPolicy={"operator": "All", "targetReplicatedJobs": ["other"]},
        ),
        f"{SPEC}.successPolicy.targetReplicatedJobs",
    ),
    "a policy that is none": (jobset(successPolicy="All"), f"{SPEC}.successPolicy"),
    "targets that are none": (
        jobset(successPolicy={"operator": "All", "targetReplicatedJobs": "node"}),
        f"{SPEC}.successPolicy.targetReplicatedJobs",
    ),
    "no entry": ({"replicatedJobs": []}, f"{SPEC}.replicatedJobs"),
    "no pod": (
        {"replicatedJobs": [{"name": "n", "template": {"spec": {}}}]},
        f"{ENTRY}.template",
    ),
    "a name of ours in a later entry": (
        jobset(
            entry("node"),
            entry(
                "other",
                template={
                    "spec": {
                        "containers": [{"name": "train", "env": [{"name": "ZEUS_X", "value": ""}]}]
                    }
                },
            ),
        ),
        f"{SPEC}.replicatedJobs[1].template.spec.template.spec.containers[0].env[0].name",
    ),
}


@pytest.mark.parametrize(
    "policy",
    [
        {"operator": "All"},
        {"operator": "All", "targetReplicatedJobs": []},
        {"operator": "All", "targetReplicatedJobs": ["other", "node"]},
    ],
)
def test_an_end_that_waits_for_rank_0_is_passed_on(policy: dict[str, Any]) -> None:
    job = job_of("JobSet", jobset(entry("node"), entry("other"), successPolicy=policy))

    assert said_of(job) == {}
    assert made_of(job).child["spec"]["successPolicy"] == policy


def test_the_deadline_of_a_pod_is_passed_on_and_what_the_refused_one_points_to() -> None:
    template = pod_template(activeDeadlineSeconds=60)
    job = job_of("JobSet", jobset(entry("node", template=template)))
    refused = said_of(job_of("JobSet", jobset(entry("node", activeDeadlineSeconds=60))))

    assert said_of(job) == {}
    (spec,) = jobs(made_of(job).child)
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == 60
    assert "set template.spec.activeDeadlineSeconds" in refused[f"{ENTRY}.activeDeadlineSeconds"]


def named(entry_name: str, **job: Any) -> JobRecord:
    """Return a ZeusJob whose name has 20 characters, and those of its children 41."""
    indexed = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    one = {**entry(entry_name, **{**indexed, **job}), "replicas": 12}
    return replace(job_of("JobSet", jobset(entry("n"), one)), name="a" * 20)


def test_a_name_that_leaves_no_room_for_those_of_the_pods_is_refused_before_any_run() -> None:
    """<child>-<entry>-11-1-abcde has 63 characters at the most: 41 + 1 + 9 + 12."""
    dry_run_manifests(named("w" * 10), EVERYTHING)

    with pytest.raises(TemplateError, match="19 characters are left for it") as caught:
        dry_run_manifests(named("w" * 11), EVERYTHING)

    assert caught.value.problem.path == "metadata.name"


def test_names_of_pods_without_an_index_are_cut_and_those_of_their_jobs_are_not() -> None:
    """<child>-<entry>-11."""
    dry_run_manifests(named("w" * 18, completions=None, parallelism=None), EVERYTHING)

    with pytest.raises(TemplateError, match="19 characters are left for it"):
        dry_run_manifests(named("w" * 19, completions=None, parallelism=None), EVERYTHING)


def test_the_last_attempt_has_the_longest_name() -> None:
    job = named("w" * 10)
    many = replace(job, spec={**job.spec, "retry": {"maxAttempts": 10}})

    with pytest.raises(TemplateError, match="19 characters are left for it"):
        dry_run_manifests(many, EVERYTHING)


def test_a_name_that_leaves_no_room_for_the_label_of_a_coordinator_is_refused() -> None:
    """<child>-rank-0-0.<child> is a label, of 63 characters at the most: 26 + 10 + 26."""
    coordinated = job_of("JobSet", jobset(entry("rank"), coordinator={"replicatedJob": "rank"}))
    dry_run_manifests(replace(coordinated, name="a" * 5), EVERYTHING)

    with pytest.raises(TemplateError, match="5 characters are left for it"):
        dry_run_manifests(replace(coordinated, name="a" * 6), EVERYTHING)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_told_with_its_path(case: str) -> None:
    spec, path = REFUSED[case]

    assert set(said_of(job_of("JobSet", spec))) == {path}


def test_pods_that_do_not_train_are_only_labelled() -> None:
    helper = pod_template("a")
    helper["spec"]["containers"].append({"name": "b"})
    job = job_of("JobSet", jobset(entry("node"), entry("helper", template=helper)))

    _, spec = jobs(made_of(job).child)

    assert spec["template"]["metadata"]["labels"]["zeus.energy/attempt"] == "1"
    assert "env" not in spec["template"]["spec"]["containers"][0]


def test_without_any_entry_no_child_is_made() -> None:
    with pytest.raises(TemplateError, match="at least one entry"):
        made_of(job_of("JobSet", {"replicatedJobs": []}))


@pytest.mark.parametrize(
    ("labels", "is_first"),
    [
        ({}, True),
        ({"zeus.energy/pod-group": "1"}, False),
        ({"jobset.sigs.k8s.io/job-index": "1"}, False),
        ({"batch.kubernetes.io/job-completion-index": "2"}, False),
    ],
)
def test_rank_0_is_index_0_of_the_first_job_of_the_first_entry(
    labels: dict[str, str], is_first: bool
) -> None:
    pod = api.pod()
    pod["metadata"]["labels"] |= labels

    assert (KIND.place_of(pod) == RANK_ZERO) is is_first


def test_pods_of_the_execution_before_are_not_its_own() -> None:
    child = {"metadata": {"labels": {"zeus.energy/execution": "1"}}}

    def pod(execution: str) -> dict[str, Any]:
        return {"metadata": {"labels": {"zeus.energy/execution": execution}}}

    assert KIND.owns(child, pod("1"))
    assert not KIND.owns(child, pod("0"))


def test_its_end_is_that_of_a_job() -> None:
    raw = {
        "metadata": {"name": "n", "uid": "u", "labels": {"a": "b"}, "managedFields": []},
        "spec": {"suspend": True, "replicatedJobs": []},
        "status": {
            "conditions": [
                {"type": "Completed", "status": "True", "reason": "AllJobsCompleted"},
                {"type": "Suspended", "status": "False"},
            ]
        },
    }

    assert KIND.project(raw) == {
        "kind": "JobSet",
        "metadata": {"name": "n", "uid": "u", "labels": {"a": "b"}},
        "spec": {"suspend": True},
        "status": {
            "conditions": [{"type": "Complete", "status": "True", "reason": "AllJobsCompleted"}]
        },
    }
