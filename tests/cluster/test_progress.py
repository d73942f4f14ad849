"""What agents tell of runs: their progress in the status, and results that pods did not leave."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.cluster.support.agents import AgentOfTheNode, own_address
from tests.cluster.support.api import Api, Object
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import Ending, Gate, evicted, held, in_turn, node_lost
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT
from tests.cluster.support.kubelet import PodRun, SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.agent_process import Machine
from tests.support.eventually import eventually
from zeus_operator.records import ExecutionRecord, RecurrenceRecord
from zeus_operator.store.store import Store
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import Outcome, Result, SessionRequest

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]
JOB = SyntheticJob()


@pytest.fixture
def agent(api: Api, namespace: str, tmp_path: Path) -> Iterator[AgentOfTheNode]:
    made = AgentOfTheNode(api, namespace, tmp_path)
    yield made
    made.stop()


class Pods:
    """A trainer that remembers the pods it has seen, and holds them at a gate."""

    def __init__(self, then: Callable[[PodRun], Ending]) -> None:
        self.gate = Gate()
        self.runs: list[PodRun] = []
        self._trainer = held(self.gate, then)

    def __call__(self, run: PodRun) -> object:
        self.runs.append(run)
        return self._trainer(run)

    def first(self) -> PodRun:
        return eventually(lambda: self.runs, "a pod is there")[0]


def after(run: PodRun, epochs: int) -> Result:
    """Return what the runtime has reported after so many epochs."""
    return JOB.after(run, epochs)


def active(zeusjobs: ZeusJobs, name: str = "job") -> Object:
    found: Object = next(iter(zeusjobs.status(name).get("active") or ()), {})
    return found


def shows_epochs(zeusjobs: ZeusJobs, epochs: int) -> None:
    eventually(
        lambda: active(zeusjobs).get("epochs") == epochs,
        f"{epochs} epochs are shown ({active(zeusjobs)})",
    )


def history(zeusjobs: ZeusJobs, stored: Store) -> tuple[RecurrenceRecord, ...]:
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    return stored.history(record.id)


def executions(zeusjobs: ZeusJobs, stored: Store) -> tuple[ExecutionRecord, ...]:
    """Return the executions of the only attempt."""
    (recurrence,) = history(zeusjobs, stored)
    (attempt,) = recurrence.attempts
    return attempt.executions


def without_message(_run: PodRun) -> Ending:
    """The script ends well, and its termination message is lost."""
    return Ending(0)


# Progress --------------------------------------------------------------------------


def test_the_progress_of_a_run_is_shown_while_it_runs(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, agent: AgentOfTheNode
) -> None:
    pods = Pods(JOB)
    make_node(pods)
    # Half a minute passes twice a second.
    make_operator(clock_speed=60.0, **agent.settings).start().wait_until_leading()
    agent.start()
    zeusjobs.apply("job", runs=1)
    run = pods.first()
    assert "epochs" not in active(zeusjobs)

    agent.hear(run.uid, after(run, 2))
    shows_epochs(zeusjobs, 2)
    shown = active(zeusjobs)
    assert shown["energyJoules"] == round(2 * 0.012 * 250)
    assert shown["lastMetric"] == shown["bestMetric"]
    assert shown["reportedAt"] == "2026-03-02T12:00:30Z"
    assert shown["node"] == "simulated-node"

    agent.hear(run.uid, after(run, 5))
    shows_epochs(zeusjobs, 5)
    agent.server.reports.clear()  # an agent that lost its disk
    agent.wait_until_asked(2)
    assert active(zeusjobs)["epochs"] == 5

    pods.gate.open()
    (ended,) = zeusjobs.wait_for_runs("job", 1)
    assert (ended["outcome"], ended["epochs"]) == ("Reached", 9)


def test_a_status_is_written_for_progress_no_more_than_every_half_minute(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, agent: AgentOfTheNode
) -> None:
    pods = Pods(JOB)
    make_node(pods)
    # Time nearly stands still: half a minute lasts for an hour, on however slow a machine.
    make_operator(clock_speed=0.01, **agent.settings).start().wait_until_leading()
    agent.start()
    zeusjobs.apply("job", runs=1)
    run = pods.first()
    agent.hear(run.uid, after(run, 1))
    shows_epochs(zeusjobs, 1)
    before = zeusjobs.get("job")["metadata"]["resourceVersion"]

    for epochs in range(2, 6):
        agent.hear(run.uid, after(run, epochs))
        agent.wait_until_asked(1)

    assert zeusjobs.get("job")["metadata"]["resourceVersion"] == before
    pods.gate.open()
    zeusjobs.wait_for_runs("job", 1)


def test_jobs_of_which_nothing_runs_cause_no_question_and_no_write(
    api: Api, zeusjobs: ZeusJobs, make_operator: MakeOperator, agent: AgentOfTheNode
) -> None:
    make_operator(**agent.settings).start().wait_until_leading()
    agent.start()
    names = [f"job-{number}" for number in range(20)]
    for name in names:
        zeusjobs.apply(name)
    for name in names:
        zeusjobs.wait_for_condition(name, "Progressing", "False", "OnDemand")

    def versions() -> list[str]:
        return [zeusjobs.get(name)["metadata"]["resourceVersion"] for name in names]

    before = versions()
    secret = f"/api/v1/namespaces/{zeusjobs.namespace}/secrets/zeus-agent-tls"
    for _ in range(3):  # what is put right shows that a look is over
        api.delete(secret)
        eventually(lambda: api.find(secret), "the agents' side of the operator has looked")
    assert versions() == before
    assert agent.server.asked == []


# The agent itself ------------------------------------------------------------------

AGENT_RULES = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]


@pytest.fixture
def agent_account(cluster: ControlPlane, api: Api, namespace: str) -> Iterator[Object]:
    """What a kubeconfig of the agent's account holds."""
    api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "agent"}})
    group = "/apis/rbac.authorization.k8s.io/v1"
    api.post(f"{group}/clusterroles", {"metadata": {"name": namespace}, "rules": AGENT_RULES})
    api.post(
        f"{group}/clusterrolebindings",
        {
            "metadata": {"name": namespace},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": namespace,
            },
            "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": namespace}],
        },
    )
    yield yaml.safe_load(cluster.kubeconfig_for("agent", namespace).read_text())
    api.delete(f"{group}/clusterrolebindings/{namespace}")
    api.delete(f"{group}/clusterroles/{namespace}")


def test_with_the_real_agent_a_run_reports_by_what_its_pod_was_given(
    api: Api,
    namespace: str,
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    agent: AgentOfTheNode,
    agent_account: Object,
    cluster: ControlPlane,
    tmp_path: Path,
) -> None:
    """Address, authority and token of the pod; certificate of the operator; reviews of both."""
    pods = Pods(without_message)
    make_node(pods)
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))
        port = free.getsockname()[1]
    settings = {**agent.settings, "agent_address": f"{own_address()}:{port}"}
    make_operator(**settings).start().wait_until_leading()
    certificate, key = agent.certificate()
    files = {
        "token": agent_account["users"][0]["user"]["token"].encode(),
        "ca": base64.b64decode(
            agent_account["clusters"][0]["cluster"]["certificate-authority-data"]
        ),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "pod-resources").mkdir()
    (tmp_path / "machine").mkdir()
    machine = Machine(tmp_path / "machine")
    try:
        machine.start_agent(
            *("--listen", f"0.0.0.0:{port}", "--node-name", "simulated-node"),
            *("--tls-cert", str(certificate), "--tls-key", str(key)),
            *("--pod-resources", str(tmp_path / "pod-resources"), "--kube-api", cluster.url),
            *("--kube-token-file", str(tmp_path / "token"), "--kube-ca-file", str(tmp_path / "ca")),
            *("--operator-account", f"{OPERATOR_NAMESPACE}:{SERVICE_ACCOUNT}"),
        )
        agent.announce(port)
        zeusjobs.apply("job", runs=1)
        run = pods.first()
        eventually(lambda: active(zeusjobs).get("state") == "Running", "it runs")
        (tmp_path / "pod-token").write_text(pod_token(api, run))
        given = {**run.environment, "ZEUS_AGENT_TOKEN_FILE": str(tmp_path / "pod-token")}
        client = AgentClient(given["ZEUS_AGENT"], timeout_seconds=30.0, environ=given)
        client.open_session("run", SessionRequest(job=run.job))
        client.report("run", after(run, 3))
        shows_epochs(zeusjobs, 3)
        client.report("run", JOB.result(run))
        client.close()
        pods.gate.open()

        (ended,) = zeusjobs.wait_for_runs("job", 1)
        assert (ended["outcome"], ended["epochs"]) == ("Reached", 9)
    finally:
        machine.close()


def pod_token(api: Api, run: PodRun) -> str:
    """Return the token that the kubelet projects as the pod's volume asks for."""
    volumes = run.manifest["spec"]["volumes"]
    (volume,) = (each for each in volumes if each["name"] == "zeus-agent-token")
    source = volume["projected"]["sources"][0]["serviceAccountToken"]
    path = f"/api/v1/namespaces/{run.namespace}/serviceaccounts/default/token"
    about = {"apiVersion": "v1", "kind": "Pod", "name": run.name, "uid": run.uid}
    spec = {"audiences": [source["audience"]], "boundObjectRef": about}
    return str(api.post(path, {"spec": spec})["status"]["token"])


# Results ---------------------------------------------------------------------------


def test_a_result_that_the_pod_did_not_leave_comes_from_the_agent(
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    agent: AgentOfTheNode,
    stored: Store,
) -> None:
    pods = Pods(without_message)
    make_node(pods)
    make_operator(**agent.settings).start().wait_until_leading()
    agent.start()
    zeusjobs.apply("job", runs=1)
    run = pods.first()
    agent.hear(run.uid, JOB.result(run))
    pods.gate.open()

    (ended,) = zeusjobs.wait_for_runs("job", 1)
    assert (ended["outcome"], ended["epochs"]) == ("Reached", 9)
    (execution,) = executions(zeusjobs, stored)
    assert execution.result is not None
    assert execution.result.sequence == JOB.result(run).sequence
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    assert len(stored.observations(record.id)) == 1


def test_what_both_tell_is_stored_once(
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    agent: AgentOfTheNode,
    stored: Store,
) -> None:
    pods = Pods(JOB)
    make_node(pods)
    make_operator(**agent.settings).start().wait_until_leading()
    agent.start()
    zeusjobs.apply("job", runs=1)
    run = pods.first()
    agent.hear(run.uid, JOB.result(run))
    shows_epochs(zeusjobs, 9)
    pods.gate.open()

    zeusjobs.wait_for_runs("job", 1)
    (execution,) = executions(zeusjobs, stored)
    assert execution.result is not None
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    (observation,) = stored.observations(record.id)
    assert observation.epochs == 9
    assert zeusjobs.status("job")["totals"]["energyJoules"] == round(9 * 0.012 * 250)


@pytest.mark.parametrize(
    "end", [evicted, lambda _result: node_lost()], ids=["evicted", "node lost"]
)
def test_the_energy_of_a_pod_that_was_ended_from_outside_is_on_the_bill(
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    agent: AgentOfTheNode,
    stored: Store,
    end: Callable[[bytes], Ending],
) -> None:
    first = Pods(lambda _run: end(b""))
    make_node(in_turn(first, JOB))
    make_operator(**agent.settings).start().wait_until_leading()
    agent.start()
    zeusjobs.apply("job", runs=1)
    run = first.first()
    agent.hear(run.uid, after(run, 4))
    eventually(lambda: active(zeusjobs).get("epochs") == 4, "the operator has seen it")
    first.gate.open()

    (ended,) = zeusjobs.wait_for_runs("job", 1)
    assert ended["outcome"] == "Reached"
    lost, last = executions(zeusjobs, stored)
    assert (lost.outcome, last.outcome) == (Outcome.PREEMPTED, None)
    assert lost.result is not None
    assert lost.result.epochs == 4
    assert ended["energyJoules"] == round((4 + 9) * 0.012 * 250)


def test_a_pod_that_nobody_saw_go_is_asked_for_everywhere(
    zeusjobs: ZeusJobs,
    api: Api,
    make_operator: MakeOperator,
    make_node: MakeNode,
    agent: AgentOfTheNode,
    stored: Store,
) -> None:
    """Its pod and Job were deleted while the operator was away, so its node is not known either."""
    pods = Pods(JOB)
    node = make_node(pods)
    first = make_operator(**agent.settings).start().wait_until_leading()
    agent.start()
    zeusjobs.apply("job", runs=1)
    run = pods.first()
    eventually(lambda: active(zeusjobs).get("state") == "Running", "it runs")
    first.kill()
    agent.hear(run.uid, after(run, 3))
    node.stop()
    path = f"/api/v1/namespaces/{run.namespace}/pods/{run.name}"
    (job,) = zeusjobs.jobs()
    api.delete(
        f"/apis/batch/v1/namespaces/{run.namespace}/jobs/{job['metadata']['name']}",
        propagationPolicy="Orphan",
    )
    eventually(lambda: not zeusjobs.jobs(), "the Job is gone")
    api.delete(path, gracePeriodSeconds=0)
    eventually(lambda: api.find(path) is None, "the pod is gone")

    make_operator(**agent.settings).start().wait_until_leading()
    (ended,) = zeusjobs.wait_for_runs("job", 1)
    assert ended["outcome"] == "Cancelled"
    (execution,) = executions(zeusjobs, stored)
    assert execution.result is not None
    assert execution.result.epochs == 3


def test_an_agent_that_is_away_for_a_moment_is_waited_for(
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    agent: AgentOfTheNode,
) -> None:
    pods = Pods(without_message)
    make_node(pods)
    operator = make_operator(**agent.settings).start().wait_until_leading()
    with socket.socket() as kept:  # nobody else gets the port meanwhile
        kept.bind(("0.0.0.0", 0))
        port = kept.getsockname()[1]
        agent.announce(port)
        zeusjobs.apply("job", runs=1)
        run = pods.first()
        pods.gate.open()
        eventually(lambda: "has left no result" in operator.log, "the operator has asked for it")
        assert "totals" not in zeusjobs.status("job"), "nothing is concluded yet"
    agent.serve(port)
    agent.hear(run.uid, JOB.result(run))

    (ended,) = zeusjobs.wait_for_runs("job", 1)
    assert (ended["outcome"], ended["epochs"]) == ("Reached", 9)


def test_a_report_of_another_run_is_not_believed(
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    agent: AgentOfTheNode,
) -> None:
    """The agent vouches for the pod, and not for what code of the user says in it."""
    pods = Pods(without_message)
    make_node(pods)
    make_operator(**agent.settings).start().wait_until_leading()
    agent.start()
    zeusjobs.apply("job", runs=1, retry={"maxAttempts": 1})
    run = pods.first()
    agent.hear(run.uid, replace(JOB.result(run), recurrence="1000000"))
    agent.wait_until_asked(2)
    assert "epochs" not in active(zeusjobs)
    pods.gate.open()

    (ended,) = zeusjobs.wait_for_runs("job", 1)
    assert ended["outcome"] == "NoTelemetry"
    assert "recurrence 1000000" in ended["detail"]


def test_without_an_agent_a_result_that_is_not_there_is_none(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_node(without_message)
    make_operator().start().wait_until_leading()
    zeusjobs.apply("job", runs=1, retry={"maxAttempts": 1})

    (ended,) = zeusjobs.wait_for_runs("job", 1)
    assert ended["outcome"] == "NoTelemetry"
