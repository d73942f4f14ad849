"""The simulated node: what the other tests take for a scheduler and a kubelet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.cluster.support import endings
from tests.cluster.support.api import Api, Object
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import Ending, Gate, Trainer, held, in_turn
from tests.cluster.support.kubelet import PodRun, SimulatedNode, SyntheticJob
from tests.support.eventually import eventually
from zeus_operator.names import LABEL_JOB_UID
from zeus_runtime.protocol import Decision, Outcome, Result, decode_result

MakeNode = Callable[..., SimulatedNode]

REPLACE_DISTURBED = {
    "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
}


def job(name: str, environment: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """Return a Job as the operator makes it."""
    container = {
        "name": "train",
        "image": "example.org/train:1",
        "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
    }
    return {
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": REPLACE_DISTURBED,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": {LABEL_JOB_UID: "some-uid"}},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
            **spec,
        },
    }


class Jobs:
    """The Jobs of a namespace and their pods."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, name: str, environment: Mapping[str, str] | None = None, **spec: Any) -> None:
        self._api.post(self._jobs, job(name, environment, **spec))

    def delete(self, name: str) -> None:
        self._api.delete(f"{self._jobs}/{name}", propagationPolicy="Foreground")

    def exists(self, name: str) -> bool:
        return self._api.find(f"{self._jobs}/{name}") is not None

    def condition(self, name: str) -> str:
        """Return how the Job has ended, "" while it goes on."""
        conditions = self._api.get(f"{self._jobs}/{name}")["status"].get("conditions") or ()
        return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed")), "")

    def wait(self, name: str, condition: str) -> None:
        eventually(lambda: self.condition(name), f"Job {name} ends")
        assert self.condition(name) == condition

    def pods(self) -> list[Object]:
        return self._api.items(self._pods)

    def pod(self) -> Object:
        (only,) = self.pods()
        return only

    def wait_for_phase(self, phase: str) -> None:
        eventually(
            lambda: [pod["status"]["phase"] for pod in self.pods()] == [phase], f"a pod is {phase}"
        )


@pytest.fixture
def jobs(api: Api, namespace: str) -> Jobs:
    return Jobs(api, namespace)


def terminated(pod: Object) -> Object:
    found: Object = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return found


def test_a_job_whose_script_succeeds_completes(make_node: MakeNode, jobs: Jobs) -> None:
    make_node(in_turn(Ending(0, message=b"done")))
    jobs.create("good")

    jobs.wait("good", "Complete")

    end = terminated(jobs.pod())
    assert (end["exitCode"], end["reason"], end["message"]) == (0, "Completed", "done")


@pytest.mark.parametrize(
    ("ending", "code", "reason"),
    [
        (endings.crashed(3), 3, "Error"),
        (endings.out_of_memory_killed(), 137, "OOMKilled"),
        (endings.not_started(), 128, "StartError"),
    ],
    ids=["crash", "host-oom", "start-error"],
)
def test_a_job_whose_script_fails_has_failed(
    ending: Ending, code: int, reason: str, make_node: MakeNode, jobs: Jobs
) -> None:
    make_node(in_turn(ending))
    jobs.create("bad")

    jobs.wait("bad", "Failed")

    end = terminated(jobs.pod())
    assert (end["exitCode"], end["reason"]) == (code, reason)


DISTURBED = {
    "evicted": endings.evicted(),
    "preempted": endings.preempted(),
    "drained": endings.drained(),
    "node-lost": endings.node_lost(),
}


def test_a_disturbed_pod_is_replaced_by_the_job_controller(make_node: MakeNode, jobs: Jobs) -> None:
    # All at once: the controller waits ten seconds before it replaces a pod.
    courses = {name: in_turn(ending, Ending(0)) for name, ending in DISTURBED.items()}
    seen: list[str] = []

    def trainer(run: PodRun) -> Any:
        name = run.labels["job-name"]
        seen.append(name)
        return courses[name](run)

    make_node(trainer)
    for name in DISTURBED:
        jobs.create(name)

    for name in DISTURBED:
        jobs.wait(name, "Complete")
    assert sorted(seen) == sorted([*DISTURBED] * 2)


@pytest.mark.parametrize(
    ("trouble", "shown"),
    [
        (endings.image_pull_error, "ImagePullBackOff"),
        (endings.unschedulable, "Unschedulable"),
    ],
)
def test_a_pod_that_does_not_start_heals_when_told(
    trouble: Callable[[Gate, Trainer], Trainer], shown: str, make_node: MakeNode, jobs: Jobs
) -> None:
    healed = Gate()
    make_node(trouble(healed, in_turn(Ending(0))))
    jobs.create("late")
    eventually(lambda: jobs.pods() and shown in str(jobs.pod()["status"]), f"it shows {shown}")
    assert jobs.pod()["status"]["phase"] == "Pending"

    healed.open()

    jobs.wait("late", "Complete")


def test_a_held_pod_runs_until_it_is_released(make_node: MakeNode, jobs: Jobs) -> None:
    gate = Gate()
    make_node(held(gate, in_turn(Ending(0))))
    jobs.create("held")
    jobs.wait_for_phase("Running")

    gate.open()

    jobs.wait("held", "Complete")


def test_a_running_pod_that_is_deleted_ends_by_sigterm_and_is_removed(
    make_node: MakeNode, jobs: Jobs
) -> None:
    asked: list[str] = []

    def stopped(run: PodRun) -> Ending:
        asked.append(run.uid)
        return Ending(143)

    make_node(held(Gate(), in_turn(Ending(0))), stopped=stopped)
    jobs.create("deleted")
    jobs.wait_for_phase("Running")
    uid = jobs.pod()["metadata"]["uid"]

    jobs.delete("deleted")

    eventually(lambda: not jobs.exists("deleted") and not jobs.pods(), "nothing is left")
    assert asked == [uid]


def test_a_restart_of_the_api_server_does_not_stop_the_node(
    cluster: ControlPlane, make_node: MakeNode, jobs: Jobs
) -> None:
    gate = Gate()
    make_node(held(gate, in_turn(Ending(0))))
    jobs.create("before")
    jobs.wait_for_phase("Running")

    cluster.stop_api_server()
    gate.open()  # the end can't be written now
    cluster.start_api_server()
    jobs.wait("before", "Complete")
    jobs.create("after")

    jobs.wait("after", "Complete")


def test_a_synthetic_job_follows_its_decision(make_node: MakeNode, jobs: Jobs) -> None:
    make_node(SyntheticJob())
    decision = Decision(batch_size=64, target=0.9, metric_mode="Max", max_epochs=50)
    jobs.create(
        "synthetic",
        {
            "ZEUS_JOB": "team/job",
            "ZEUS_RECURRENCE": "7",
            "ZEUS_ATTEMPT": "1",
            "ZEUS_BATCH_SIZE": "64",
            "ZEUS_DECISION": decision.to_json(),
        },
    )

    jobs.wait("synthetic", "Complete")

    result = decode_result(terminated(jobs.pod())["message"].encode())
    assert isinstance(result, Result)
    assert (result.outcome, result.batch_size, result.epochs) == (Outcome.REACHED, 64, 8)
    assert (result.job, result.recurrence, result.attempt) == ("team/job", "7", 1)
    assert result.best_metric == pytest.approx(0.9)
