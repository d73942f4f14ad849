"""A TrainJob: each child has a runtime of its own, a copy of the one that the user names."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import execution_of
from tests.support.workloads import (
    CHILD_NAME,
    EVERYTHING,
    job_of,
    made_of,
    pod_template,
    said_of,
    variables,
)
from zeus_operator.api.template import TemplateError
from zeus_operator.executors.child import dry_run_manifests
from zeus_operator.workloads.base import Source
from zeus_operator.workloads.batch import END_WITH_A_DISTURBED_POD, REPLACE_DISTURBED_PODS_OF_A_SET
from zeus_operator.workloads.registry import KINDS

KIND = KINDS["TrainJob"]
SPEC = "spec.workload.template.spec"
STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
Object = dict[str, Any]


def entry(name: str, step: str, container: str, **job: Any) -> Object:
    template = {"spec": {"containers": [{"name": container, "image": "example.org/r:1"}]}}
    return {
        "name": name,
        "replicas": 1,
        "template": {"metadata": {"labels": {STEP: step}}, "spec": {"template": template, **job}},
    }


def runtime(*entries: Object, **policy: Any) -> Object:
    return {
        "metadata": {"name": "torch", "uid": "of-the-runtime"},
        "spec": {
            "mlPolicy": policy or {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
            "template": {
                "spec": {"replicatedJobs": list(entries or [entry("node", "trainer", "node")])}
            },
        },
    }


def trainjob(**fields: Any) -> Object:
    return {
        "runtimeRef": {"name": "torch"},
        "trainer": {
            "image": "example.org/train:1",
            "command": ["torchrun", "train.py"],
            "args": ["--batch-size=$(ZEUS_BATCH_SIZE)"],
            "env": [{"name": "FOLDER", "value": "/out/$(ZEUS_ATTEMPT)"}],
        },
        **fields,
    }


def companion_of(spec: Object, source: Object, **options: Any) -> Object:
    made = made_of(job_of("TrainJob", spec, **options), source)
    assert made.companion is not None
    return made.companion


def jobs_of(companion: Object) -> dict[str, Object]:
    entries = companion["spec"]["template"]["spec"]["replicatedJobs"]
    return {each["name"]: each["template"]["spec"] for each in entries}


def test_the_child_refers_to_a_copy_that_has_its_name_and_belongs_to_the_zeusjob() -> None:
    source = runtime()
    before = copy.deepcopy(source)

    made = made_of(job_of("TrainJob", trainjob()), source)

    assert made.child["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": CHILD_NAME,
    }
    assert made.companion is not None
    assert made.companion["kind"] == "TrainingRuntime"
    metadata = made.companion["metadata"]
    assert (metadata["name"], metadata["namespace"]) == (CHILD_NAME, "default")
    assert metadata["ownerReferences"] == made.child["metadata"]["ownerReferences"]
    assert metadata["annotations"]["zeus.energy/copy"]
    assert source == before, "the runtime itself stays as it is"


def test_the_pods_of_the_copy_have_what_the_operator_puts_into_pods() -> None:
    job = job_of("TrainJob", trainjob(), injectRuntime=True)
    made = made_of(job, runtime(), executions=(execution_of(None, uid="pod-1"),))
    assert made.companion is not None

    template = jobs_of(made.companion)["node"]["template"]
    names = list(variables(template["spec"], "node"))

    assert names[0] == "ZEUS_JOB"
    assert variables(template["spec"], "node")["ZEUS_BATCH_SIZE"] == "64"
    assert template["metadata"]["labels"]["zeus.energy/execution"] == "1"
    assert template["spec"]["restartPolicy"] == "Never"
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["/zeus/launch", "torchrun", "train.py"]
    # What a TrainJob says itself stays where it is, but for what a launcher goes in front of.
    trainer = made.child["spec"]["trainer"]
    assert "command" not in trainer
    assert trainer["env"] == [{"name": "FOLDER", "value": "/out/$(ZEUS_ATTEMPT)"}]
    assert trainer["args"] == ["--batch-size=$(ZEUS_BATCH_SIZE)"]


def test_the_runtimes_own_command_is_what_a_launcher_goes_in_front_of_else() -> None:
    source = runtime()
    jobs_of(source)["node"]["template"]["spec"]["containers"][0]["command"] = ["tool"]
    spec = trainjob(trainer={})

    (container,) = jobs_of(companion_of(spec, source, injectRuntime=True))["node"]["template"][
        "spec"
    ]["containers"]

    assert container["command"] == ["/zeus/launch", "tool"]


def test_jobs_that_prepare_a_run_are_labelled_and_no_rank() -> None:
    source = runtime(
        entry("dataset-initializer", "dataset-initializer", "dataset-initializer"),
        entry("node", "trainer", "node"),
    )

    jobs = jobs_of(companion_of(trainjob(), source, injectRuntime=True))

    groups = {
        name: job["template"]["metadata"]["labels"]["zeus.energy/pod-group"]
        for name, job in jobs.items()
    }
    assert groups == {"dataset-initializer": "1", "node": "0"}
    assert "env" not in jobs["dataset-initializer"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("nodes", "policy", "wanted"),
    [
        (None, {"numNodes": 1}, REPLACE_DISTURBED_PODS_OF_A_SET),
        (None, {"numNodes": 2}, END_WITH_A_DISTURBED_POD),
        (2, {"numNodes": 1}, END_WITH_A_DISTURBED_POD),
        (1, {"numNodes": 2}, REPLACE_DISTURBED_PODS_OF_A_SET),
    ],
)
def test_the_copy_tries_once_whatever_the_runtime_does(
    nodes: int | None, policy: Object, wanted: Object
) -> None:
    source = runtime(entry("node", "trainer", "node", backoffLimit=3), **policy)
    source["spec"]["template"]["spec"]["failurePolicy"] = {"maxRestarts": 5}
    spec = trainjob()
    if nodes is not None:
        spec["trainer"]["numNodes"] = nodes

    companion = companion_of(spec, source)

    assert companion["spec"]["template"]["spec"]["failurePolicy"] == {"maxRestarts": 0}
    (job,) = jobs_of(companion).values()
    assert (job["backoffLimit"], job["podFailurePolicy"]) == (0, wanted)


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ({"name": "a"}, ("ClusterTrainingRuntime", "clustertrainingruntimes", None)),
        (
            {"name": "a", "kind": "TrainingRuntime"},
            ("TrainingRuntime", "trainingruntimes", "team"),
        ),
    ],
)
def test_the_runtime_is_read_where_the_reference_says(
    reference: Object, wanted: tuple[str, str, str | None]
) -> None:
    kind, plural, namespace = wanted

    assert KIND.source(trainjob(runtimeRef=reference), "team") == Source(
        "trainer.kubeflow.org/v1alpha1", kind, plural, namespace, "a"
    )


REF = f"{SPEC}.runtimeRef"
REFUSED: dict[str, tuple[Object, str]] = {
    "no runtime": ({"trainer": {}}, REF),
    "a runtime without a name": (trainjob(runtimeRef={}), f"{REF}.name"),
    "a runtime of another group": (
        trainjob(runtimeRef={"name": "a", "apiGroup": "example.org"}),
        f"{REF}.apiGroup",
    ),
    "a runtime of another kind": (
        trainjob(runtimeRef={"name": "a", "kind": "JobSet"}),
        f"{REF}.kind",
    ),
    "torchtune": (trainjob(trainer={"command": ["tune", "run"]}), f"{SPEC}.trainer.command"),
    "restarts of a launcher": (
        trainjob(trainer={"command": ["torchrun", "--max-restarts=3", "t.py"]}),
        f"{SPEC}.trainer.command[1]",
    ),
    "a name of ours": (
        trainjob(trainer={"env": [{"name": "ZEUS_X", "value": "1"}]}),
        f"{SPEC}.trainer.env[0].name",
    ),
    "a name that nobody injects": (
        trainjob(trainer={"args": ["$(ZEUS_BATCHES)"]}),
        f"{SPEC}.trainer.args[0]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_of_a_trainjob_is_told_with_its_path(case: str) -> None:
    spec, path = REFUSED[case]

    assert set(said_of(job_of("TrainJob", spec))) == {path}


def with_restarts(action: str) -> Object:
    source = runtime()
    source["spec"]["template"]["spec"]["failurePolicy"] = {"rules": [{"action": action}]}
    return source


NO_COPY: dict[str, tuple[Object, str]] = {
    "mpi": (runtime(mpi={"numProcPerNode": 1}), "started by mpirun"),
    "elastic": (runtime(torch={"elasticPolicy": {"minNodes": 1}}), "with an elasticPolicy"),
    "a deadline of a Job": (
        runtime(entry("node", "trainer", "node", activeDeadlineSeconds=60)),
        "replicatedJobs[0].template.spec.activeDeadlineSeconds: must be left out",
    ),
    "retries of each rank": (
        runtime(entry("node", "trainer", "node", backoffLimitPerIndex=2)),
        "replicatedJobs[0].template.spec.backoffLimitPerIndex: must be left out",
    ),
    "restarts without end": (
        with_restarts("RestartJobSetAndIgnoreMaxRestarts"),
        "ClusterTrainingRuntime torch: spec.template.spec.failurePolicy.rules[0].action: must not",
    ),
    "no trainer": (runtime(entry("node", "model-initializer", "node")), "labelled"),
    "no container that trains": (runtime(entry("node", "trainer", "other")), "it has: other"),
    "a rank replaced alone": (
        runtime(
            entry(
                "node",
                "trainer",
                "node",
                podFailurePolicy={"rules": [{"action": "Ignore", "onPodConditions": []}]},
            ),
            numNodes=2,
        ),
        "ClusterTrainingRuntime torch: spec.template.spec.replicatedJobs[0]",
    ),
}


def holding(step: str = "trainer", **fields: Any) -> Object:
    """Return a runtime with `fields` in the container of a step."""
    names = ("dataset-initializer", "trainer")
    entries = [entry(name, name, "node" if name == "trainer" else name) for name in names]
    for each in entries:
        if each["name"] == step:
            each["template"]["spec"]["template"]["spec"]["containers"][0] |= fields
    return runtime(*entries)


def labelled(source: Object) -> Object:
    template = jobs_of(source)["trainer"]["template"]
    template["metadata"] = {"labels": {"zeus.energy/attempt": "7"}}
    return source


HELD: dict[str, tuple[Object, str]] = {
    "restarts of a launcher": (
        holding(command=["torchrun", "--max-restarts=3"]),
        "containers[0].command[1]: --max-restarts=3: must be 0 or left out",
    ),
    "a name that nobody injects": (
        holding(args=["--size=$(ZEUS_BATCHSIZE)"]),
        "containers[0].args[0]: $(ZEUS_BATCHSIZE) is not a name we inject",
    ),
    "a name of ours": (
        holding(env=[{"name": "ZEUS_BATCH_SIZE", "value": "8"}]),
        "containers[0].env[0].name: ZEUS_BATCH_SIZE: names that begin with ZEUS_",
    ),
    "a name of ours in what prepares the run": (
        holding("dataset-initializer", env=[{"name": "ZEUS_X", "value": "8"}]),
        "containers[0].env[0].name: ZEUS_X: names that begin with ZEUS_",
    ),
    "a label of ours": (labelled(holding()), "metadata.labels: labels that begin with"),
}


@pytest.mark.parametrize("case", HELD)
def test_what_is_refused_in_a_template_is_refused_in_the_pods_of_a_runtime(case: str) -> None:
    source, words = HELD[case]
    spec = trainjob(trainer={"image": "example.org/train:1"})

    with pytest.raises(TemplateError) as refused:
        dry_run_manifests(job_of("TrainJob", spec), EVERYTHING, source)

    assert str(refused.value).startswith("ClusterTrainingRuntime torch: spec.template.spec.")
    assert words in str(refused.value)


def test_what_a_trainjob_says_itself_takes_the_place_of_what_its_runtime_holds() -> None:
    source = holding(command=["torchrun", "--max-restarts=3"], args=["$(ZEUS_BATCHSIZE)"])

    made = made_of(job_of("TrainJob", trainjob()), source)

    assert made.companion is not None
    (container,) = jobs_of(made.companion)["trainer"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["torchrun", "train.py"]
    assert "args" not in container, "those are the TrainJob's"


@pytest.mark.parametrize("targets", [["node"], ["dataset-initializer"]])
def test_the_runtimes_end_waits_for_the_trainer_wherever_that_is(targets: list[str]) -> None:
    source = runtime(
        entry("dataset-initializer", "dataset-initializer", "dataset-initializer"),
        entry("node", "trainer", "node"),
    )
    policy = {"operator": "All", "targetReplicatedJobs": targets}
    source["spec"]["template"]["spec"]["successPolicy"] = policy

    if targets == ["node"]:
        made = companion_of(trainjob(), source)
        assert made["spec"]["template"]["spec"]["successPolicy"] == policy
        return
    with pytest.raises(TemplateError, match="must have node in it"):
        companion_of(trainjob(), source)


def test_names_of_its_pods_have_to_fit_whatever_they_are_called_in_the_runtime() -> None:
    """<child>-<entry>-0-9-abcde has 63 characters at the most."""
    job = replace(job_of("TrainJob", trainjob(trainer={"numNodes": 10})), name="a" * 20)

    def dry_run(name: str) -> None:
        dry_run_manifests(job, EVERYTHING, runtime(entry(name, "trainer", "node")))

    dry_run("w" * 11)
    with pytest.raises(TemplateError, match=r"metadata\.name: is too long"):
        dry_run("w" * 12)


@pytest.mark.parametrize("case", NO_COPY)
def test_a_runtime_that_no_run_can_have_is_refused_when_the_child_is_made(case: str) -> None:
    source, words = NO_COPY[case]

    with pytest.raises(TemplateError, match=words.replace("[", r"\[").replace("]", r"\]")):
        made_of(job_of("TrainJob", trainjob()), source)


def test_a_command_may_be_the_runtimes_whatever_else_is_wrong() -> None:
    assert said_of(job_of("TrainJob", {"runtimeRef": {"name": "a"}}, injectRuntime=True)) == {}
    assert set(said_of(job_of("TrainJob", {}, injectRuntime=True))) == {REF}


def test_it_is_tried_with_the_users_runtime_where_no_copy_was_made() -> None:
    child = made_of(job_of("TrainJob", trainjob()), runtime()).child

    tried = KIND.without_companion(child["spec"], trainjob())

    assert tried["runtimeRef"] == {"name": "torch"}


def test_another_runtime_or_another_decision_makes_another_copy() -> None:
    def digest(source: Object) -> str:
        text: str = companion_of(trainjob(), source)["metadata"]["annotations"]["zeus.energy/copy"]
        return text

    assert digest(runtime()) == digest(runtime())
    assert digest(runtime()) != digest(runtime(numNodes=2))


def test_pod_templates_of_a_user_are_of_no_use_to_a_trainjob() -> None:
    spec = trainjob()
    spec["template"] = pod_template()

    assert said_of(job_of("TrainJob", spec)) == {}, "the API server says what it does not know"
