"""The Job of an attempt: what of the user's template goes through, and what is ours."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.histories import SPEC
from tests.support.local_children import attempt as decided_attempt
from tests.support.plan_facts import JOB
from zeus_operator.api.expand import expand_all, expand_environment
from zeus_operator.api.template import TemplateError
from zeus_operator.executors.child import (
    REPLACE_DISTURBED_PODS,
    ChildSettings,
    build_manifests,
    dry_run_manifests,
    owned_by,
)
from zeus_operator.records import AttemptRecord, JobRecord
from zeus_runtime.protocol import INJECTED_ENVIRONMENT, Decision

NOTHING = ChildSettings()
EVERYTHING = ChildSettings(agent_address="https://agent:7443", runtime_image="example.org/zeus:1")
POD = "spec.workload.template.spec.template.spec"
LABELS = {
    "zeus.energy/job": "digits",
    "zeus.energy/job-uid": JOB.uid,
    "zeus.energy/recurrence": "7",
    "zeus.energy/attempt": "1",
}
DECISION = Decision(
    batch_size=64,
    target=0.97,
    metric_mode="Max",
    max_epochs=30,
    learning_rate=0.025,
    profile_gpu_model="odd $(HOME) $$ GPU",
)


def container(name: str = "train", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "example.org/train:1", "command": ["python"], **fields}


def job_with(
    containers: list[Any] | None = None,
    *,
    job_fields: dict[str, Any] | None = None,
    pod_fields: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
    workload: dict[str, Any] | None = None,
    **spec: Any,
) -> JobRecord:
    """Return a job; `spec` are fields of the ZeusJob, the others of its template."""
    child = {
        "template": {"spec": {"containers": containers or [container()], **(pod_fields or {})}},
        **(job_fields or {}),
    }
    template = {"metadata": meta or {}, "spec": child}
    document = {**SPEC, **spec, "workload": {"template": template, **(workload or {})}}
    return replace(JOB, spec=document)


def attempt() -> AttemptRecord:
    return decided_attempt(identifier=3, child_name="digits-0a1b2c3d-mm9a2o00-a1")


def build(job: JobRecord, settings: ChildSettings = NOTHING) -> dict[str, Any]:
    return build_manifests(job, attempt(), DECISION, settings).child


def pod_of(child: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = child["spec"]["template"]["spec"]
    return found


def training(child: dict[str, Any]) -> dict[str, Any]:
    (found,) = (each for each in pod_of(child)["containers"] if each["name"] == "train")
    return dict(found)


def environment(child: dict[str, Any]) -> dict[str, str]:
    """Return the environment that the kubelet makes of the training container's `env`."""
    return expand_environment((each["name"], each["value"]) for each in training(child)["env"])


def refused(job: JobRecord, settings: ChildSettings = NOTHING) -> tuple[str, str]:
    with pytest.raises(TemplateError) as caught:
        build(job, settings)
    return caught.value.problem.path, caught.value.problem.message


# Names, owner, labels -----------------------------------------------------------


def test_the_child_has_the_attempts_name_and_the_zeusjob_controls_it() -> None:
    child = build(job_with())

    assert (child["apiVersion"], child["kind"]) == ("batch/v1", "Job")
    assert child["metadata"] == {
        "name": "digits-0a1b2c3d-mm9a2o00-a1",
        "namespace": "default",
        "labels": LABELS,
        "ownerReferences": [
            {
                "apiVersion": "zeus.energy/v1alpha1",
                "kind": "ZeusJob",
                "name": "digits",
                "uid": JOB.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def test_the_users_labels_and_annotations_stand_beside_ours() -> None:
    queue = {"kueue.x-k8s.io/queue-name": "gpus"}
    job = job_with(meta={"labels": queue, "annotations": {"team": "vision"}})
    job.spec["workload"]["template"]["spec"]["template"]["metadata"] = {"labels": {"app": "t"}}

    child = build(job)

    assert child["metadata"]["labels"] == {**queue, **LABELS}
    assert child["metadata"]["annotations"] == {"team": "vision"}
    assert child["spec"]["template"]["metadata"]["labels"] == {"app": "t", **LABELS}


def test_a_job_is_ours_by_its_controller_and_the_attempt_that_it_is_for() -> None:
    child = build(job_with())
    assert owned_by(child, JOB.uid, attempt())

    assert not owned_by(child, "another-uid", attempt())
    assert not owned_by(child, JOB.uid, replace(attempt(), number=2))
    assert not owned_by(child, JOB.uid, replace(attempt(), recurrence_id=8))
    child["metadata"]["ownerReferences"][0]["controller"] = False
    assert not owned_by(child, JOB.uid, attempt())
    assert not owned_by({}, JOB.uid, attempt())


# Retries ------------------------------------------------------------------------


def test_a_failure_ends_the_job_and_a_disturbed_pod_is_replaced() -> None:
    child = build(job_with(job_fields={"ttlSecondsAfterFinished": 60}))["spec"]

    assert child["backoffLimit"] == 0
    assert child["podFailurePolicy"] == REPLACE_DISTURBED_PODS
    assert child["template"]["spec"]["restartPolicy"] == "Never"
    assert "ttlSecondsAfterFinished" not in child


def test_a_pod_failure_policy_of_the_users_own_is_kept() -> None:
    own = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]}

    assert build(job_with(job_fields={"podFailurePolicy": own}))["spec"]["podFailurePolicy"] == own


RESTARTS: dict[str, tuple[JobRecord, str]] = {
    "by a failure policy": (
        job_with(
            job_fields={
                "podFailurePolicy": {
                    "rules": [{"action": "Ignore", "onExitCodes": {"values": [1]}}]
                }
            }
        ),
        "spec.workload.template.spec.podFailurePolicy.rules[0].action",
    ),
    "by the container": (
        job_with([container(restartPolicy="OnFailure")]),
        f"{POD}.containers[0].restartPolicy",
    ),
    "by rules of the container": (
        job_with([container(restartPolicyRules=[{"action": "Restart"}])]),
        f"{POD}.containers[0].restartPolicyRules",
    ),
    "by rules of another container": (
        job_with(
            [
                container(),
                container("side", restartPolicyRules=[{"action": "RestartAllContainers"}]),
            ],
            workload={"container": "train"},
        ),
        f"{POD}.containers[1].restartPolicyRules",
    ),
}


@pytest.mark.parametrize("case", RESTARTS)
def test_restarts_that_the_history_would_not_see_are_refused(case: str) -> None:
    job, path = RESTARTS[case]

    where, words = refused(job)

    assert where == path
    assert "spec.retry.maxAttempts" in words


# Environment --------------------------------------------------------------------


def test_our_names_come_first_so_that_every_reference_sees_them() -> None:
    own = [{"name": "FOLDER", "value": "/out/$(ZEUS_RECURRENCE)-$(ZEUS_ATTEMPT)"}]
    job = job_with([container(args=["--bs=$(ZEUS_BATCH_SIZE)", "$(FOLDER)"], env=own)])

    child = build(job)
    made = environment(child)

    assert training(child)["env"][-1:] == own
    assert {each["name"] for each in training(child)["env"][:-1]} <= set(INJECTED_ENVIRONMENT)
    assert expand_all(training(child)["args"], made) == ["--bs=64", "/out/7-1"]
    assert made["ZEUS_JOB"] == "default/digits"
    assert made["ZEUS_LEARNING_RATE"] == "0.025"
    assert "ZEUS_AGENT" not in made


def test_a_dollar_in_a_value_of_ours_reaches_the_run_as_it_is() -> None:
    """Names of GPUs come from pods: they must not read the user's environment."""
    made = environment(build(job_with([container(env=[{"name": "A", "value": "b"}])])))

    assert json.loads(made["ZEUS_DECISION"]) == json.loads(DECISION.to_json())


def test_the_result_goes_where_the_kubelet_looks() -> None:
    assert environment(build(job_with()))["ZEUS_RESULT_PATH"] == "/dev/termination-log"
    job = job_with([container(terminationMessagePath="/tmp/end")])
    assert environment(build(job))["ZEUS_RESULT_PATH"] == "/tmp/end"


@pytest.mark.parametrize(
    ("containers", "init", "room"), [(1, 0, 4096), (3, 0, 4096), (2, 2, 3072), (6, 6, 1024)]
)
def test_the_result_is_as_long_as_the_kubelet_leaves_room(
    containers: int, init: int, room: int
) -> None:
    assert environment(build(crowded(containers, init)))["ZEUS_RESULT_BYTES"] == str(room)


def test_our_own_init_container_counts_and_too_little_room_is_refused() -> None:
    job = crowded(6, 6, injectRuntime=True)

    where, words = refused(job, EVERYTHING)

    assert where == f"{POD}.containers"
    assert "13 containers" in words
    assert "12 are the most" in words


def crowded(containers: int, init: int, **workload: Any) -> JobRecord:
    sides = [container(f"side-{index}") for index in range(containers - 1)]
    before = [container(f"init-{index}") for index in range(init)]
    return job_with(
        [container(), *sides],
        pod_fields={"initContainers": before},
        workload={"container": "train", **workload},
    )


# GPU ----------------------------------------------------------------------------

A100 = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["A100"]}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def required_terms(**pod_fields: Any) -> Any:
    child = build(job_with(pod_fields=pod_fields, gpu={"product": "A100"}))
    return pod_of(child)["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]


def test_a_gpu_product_is_required_of_the_node() -> None:
    assert required_terms() == [{"matchExpressions": [A100]}]
    assert "affinity" not in pod_of(build(job_with()))


def test_a_gpu_product_is_added_to_every_term_since_one_of_them_is_enough() -> None:
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    name = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    terms = [{"matchExpressions": [zone]}, {"matchFields": [name]}, {}]
    affinity = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}, "podAffinity": {"x": 1}}

    assert required_terms(affinity=affinity) == [
        {"matchExpressions": [zone, A100]},
        {"matchFields": [name], "matchExpressions": [A100]},
        {},  # matches no node, and goes on doing so
    ]


def test_two_gpu_products_are_refused() -> None:
    selector = {"nvidia.com/gpu.product": "H100"}

    where, words = refused(job_with(pod_fields={"nodeSelector": selector}, gpu={"product": "A100"}))

    assert where == f'{POD}.nodeSelector["nvidia.com/gpu.product"]'
    assert "H100 is not spec.gpu.product, which is A100" in words


# The agent and the runtime ------------------------------------------------------


@pytest.mark.parametrize("bundle", ["", "-----BEGIN CERTIFICATE-----\nMII$(HOME)=\n"])
def test_with_an_authority_the_run_is_told_whom_to_trust(bundle: str) -> None:
    told = environment(build(job_with(), replace(EVERYTHING, agent_ca=bundle)))
    assert told.get("ZEUS_AGENT_CA", "") == bundle


def test_with_an_agent_the_run_gets_its_address_and_a_token_for_it_alone() -> None:
    child = build(job_with(), EVERYTHING)

    assert environment(child)["ZEUS_AGENT"] == "https://agent:7443"
    assert training(child)["volumeMounts"] == [
        {"name": "zeus-agent-token", "mountPath": "/var/run/secrets/zeus.energy", "readOnly": True}
    ]
    (volume,) = pod_of(child)["volumes"]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "audience": "zeus-agent",
        "expirationSeconds": 3600,
        "path": "agent-token",
    }


def test_the_runtime_is_injected_by_an_init_container_and_a_launcher() -> None:
    before = container("fetch")
    job = job_with(pod_fields={"initContainers": [before]}, workload={"injectRuntime": True})

    child = build(job, replace(EVERYTHING, agent_address=None, agent_ca="PEM"))

    ours, theirs = pod_of(child)["initContainers"]
    assert theirs == before
    assert (ours["name"], ours["image"]) == ("zeus-runtime", "example.org/zeus:1")
    assert ours["securityContext"]["runAsNonRoot"]
    assert ours["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert ours["resources"]["requests"] == ours["resources"]["limits"]  # stays Guaranteed
    assert training(child)["command"] == ["/zeus/launch", "python"]
    assert training(child)["volumeMounts"][0]["mountPath"] == "/zeus"


def test_nothing_is_injected_where_it_is_not_asked_for() -> None:
    pod = pod_of(build(job_with(), replace(EVERYTHING, agent_address=None)))

    assert "initContainers" not in pod
    assert "volumes" not in pod


INJECTED = {"injectRuntime": True}
COLLISIONS: dict[str, tuple[JobRecord, str]] = {
    "no command": (
        job_with([{"name": "train", "image": "i"}], workload=INJECTED),
        f"{POD}.containers[0].command",
    ),
    "a volume for the token": (
        job_with(pod_fields={"volumes": [{"name": "data"}, {"name": "zeus-agent-token"}]}),
        f"{POD}.volumes[1].name",
    ),
    "a volume for the runtime": (
        job_with(pod_fields={"volumes": [{"name": "zeus-runtime"}]}, workload=INJECTED),
        f"{POD}.volumes[0].name",
    ),
    "a mount at ours": (
        job_with(
            [container(volumeMounts=[{"name": "d", "mountPath": "/zeus/"}])], workload=INJECTED
        ),
        f"{POD}.containers[0].volumeMounts[0].mountPath",
    ),
    "a mount below ours": (
        job_with(
            [container(volumeMounts=[{"name": "d", "mountPath": "/zeus/data"}])],
            workload=INJECTED,
        ),
        f"{POD}.containers[0].volumeMounts[0].mountPath",
    ),
    "a container of our name": (
        job_with(
            [container("zeus-runtime"), container()], workload={**INJECTED, "container": "train"}
        ),
        f"{POD}.containers[0].name",
    ),
    "a list where a mapping belongs": (
        job_with(pod_fields={"volumes": {"name": "data"}}),
        f"{POD}.volumes",
    ),
}


@pytest.mark.parametrize("case", COLLISIONS)
def test_what_stands_in_the_way_is_refused_with_its_path(case: str) -> None:
    job, path = COLLISIONS[case]

    assert refused(job, EVERYTHING)[0] == path


def test_an_operator_without_a_runtime_image_refuses_to_inject() -> None:
    assert refused(job_with(workload=INJECTED))[0] == "spec.workload.injectRuntime"


# Byte for byte ------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8).map("x{}".format)
FREE = st.dictionaries(NAMES, VALUES, max_size=4)
OBJECTS = st.lists(FREE, max_size=2)


@given(
    job_fields=FREE,
    pod_fields=FREE,
    container_fields=FREE,
    volumes=st.none() | OBJECTS,
    mounts=st.none() | OBJECTS,
    settings=st.sampled_from([NOTHING, EVERYTHING]),
    inject=st.booleans(),
    data=st.data(),
)
def test_all_else_goes_through_byte_for_byte(
    job_fields: dict[str, Any],
    pod_fields: dict[str, Any],
    container_fields: dict[str, Any],
    volumes: list[Any] | None,
    mounts: list[Any] | None,
    settings: ChildSettings,
    inject: bool,
    data: st.DataObject,
) -> None:
    optional_pod = {} if volumes is None else {"volumes": volumes}
    optional_container = {} if mounts is None else {"volumeMounts": mounts}
    side = {**container("side"), **container_fields}
    fields = list({**container(), **container_fields, **optional_container}.items())
    main = dict(data.draw(st.permutations(fields)))
    job = job_with(
        [side, main],
        job_fields=job_fields,
        pod_fields={**pod_fields, **optional_pod},
        workload={"container": "train", "injectRuntime": inject and settings is EVERYTHING},
    )
    before = copy.deepcopy(job.spec)

    child = build(job, settings)

    assert job.spec == before, "the stored spec is left alone"
    theirs = before["workload"]["template"]["spec"]
    assert as_text(without_ours(child["spec"], theirs)) == as_text(theirs)


def without_ours(child: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Take off a child all that the reference says is added, and nothing else."""
    found = copy.deepcopy(child)
    assert found.pop("backoffLimit") == 0
    assert found.pop("podFailurePolicy") == REPLACE_DISTURBED_PODS
    assert found["template"].pop("metadata") == {"labels": LABELS}
    pod = found["template"]["spec"]
    assert pod.pop("restartPolicy") == "Never"
    main = pod["containers"][1]
    assert {each["name"] for each in main.pop("env")} <= set(INJECTED_ENVIRONMENT)
    if main["command"][0] == "/zeus/launch":
        main["command"] = main["command"][1:]
        assert [each["name"] for each in pod.pop("initContainers")] == ["zeus-runtime"]
    their_pod = theirs["template"]["spec"]
    for owner, key, user in (
        (pod, "volumes", their_pod),
        (main, "volumeMounts", their_pod["containers"][1]),
    ):
        ours = owner.get(key, [])[len(user.get(key, [])) :]
        assert {each["name"] for each in ours} <= {"zeus-runtime", "zeus-agent-token"}
        if key in user:
            owner[key] = owner[key][: len(user[key])]
        else:
            owner.pop(key, None)
    return found


def as_text(document: dict[str, Any]) -> str:
    return json.dumps(document)  # in the order of the keys


# Dry run ------------------------------------------------------------------------


def test_the_dry_run_is_of_a_first_attempt_at_the_default() -> None:
    child = dry_run_manifests(job_with(), EVERYTHING).child

    made = environment(child)
    assert made["ZEUS_BATCH_SIZE"] == "256"
    assert json.loads(made["ZEUS_DECISION"])["target"] == 0.97
    assert len(child["metadata"]["name"]) == len("digits-0a1b2c3d-mm9a2o00-a1")
    assert set(child["metadata"]["labels"]) == set(LABELS)
