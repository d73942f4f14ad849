"""An operator that serves some namespaces only, with exactly the rights that are shipped for it.

What it may do is one thing, and tested by what the API server refuses it; what it tries to do is
another, and tested by the API server's audit log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster.support.api import Api
from tests.cluster.support.binaries import Binaries
from tests.cluster.support.control_plane import ControlPlane, KubectlError
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT, install
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.namespaces import create_namespace
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs, zeusjob
from tests.support.eventually import eventually
from tests.support.jobs import START
from zeus_operator.store.store import Store

SERVED, OTHER = ("team-a", "team-b"), "team-c"
"""The served ones are those that deploy/namespaced/rbac.yaml names."""

USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{SERVICE_ACCOUNT}"
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}


@dataclass(frozen=True)
class Plane:
    """A control plane with the shipped files, and what was asked of its API server."""

    plane: ControlPlane
    audit_log: Path
    account: Path

    def requests_of_operator(self) -> list[dict[str, object]]:
        """Return method, path, namespace and status of what the operator has asked so far."""
        lines = self.audit_log.read_text().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [
            {
                "verb": event["verb"],
                "uri": event["requestURI"],
                "namespace": event.get("objectRef", {}).get("namespace", ""),
                "resource": event.get("objectRef", {}).get("resource", ""),
                "name": event.get("objectRef", {}).get("name", ""),
                "status": event.get("responseStatus", {}).get("code", 0),
            }
            for event in events
            if event["user"]["username"] == USER
        ]


@pytest.fixture(scope="module")
def audited(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    directory = tmp_path_factory.mktemp("namespaced")
    policy, log = directory / "audit.yaml", directory / "audit.log"
    policy.write_text(yaml.safe_dump(AUDIT_POLICY))
    flags = (f"--audit-policy-file={policy}", f"--audit-log-path={log}")
    with ControlPlane(directory / "plane", binaries, api_server_flags=flags) as plane:
        for name in (*SERVED, OTHER):
            create_namespace(plane, name)
        install(plane, rights="deploy/namespaced/rbac.yaml")
        yield Plane(plane, log, plane.kubeconfig_for(SERVICE_ACCOUNT, OPERATOR_NAMESPACE))


@pytest.fixture
def admin(audited: Plane) -> Iterator[Api]:
    with closing(audited.plane.api()) as api:
        yield api


@pytest.fixture
def operator(audited: Plane, tmp_path: Path, database: str) -> Iterator[OperatorProcess]:
    process = OperatorProcess(
        *(tmp_path, audited.account, database, OPERATOR_NAMESPACE),
        watch_namespaces=",".join(SERVED),
        resync_seconds="10",
        absence_confirm_seconds="1",
    )
    yield process.start()
    process.kill()


@pytest.fixture
def teams(admin: Api, stored: Store) -> Iterator[dict[str, ZeusJobs]]:
    """The ZeusJobs of each namespace, and a node that would run pods of any."""
    with ExitStack() as stack:
        stack.enter_context(SimulatedNode(admin, SyntheticJob()))
        yield {name: ZeusJobs(admin, name, stored) for name in (*SERVED, OTHER)}
        for name in (*SERVED, OTHER):
            admin.delete(f"/apis/zeus.energy/v1alpha1/namespaces/{name}/zeusjobs")


def test_it_acts_in_its_namespaces_and_nowhere_else(
    audited: Plane, operator: OperatorProcess, teams: dict[str, ZeusJobs], stored: Store, admin: Api
) -> None:
    for team in teams.values():
        team.apply("job", runs=2)
    for name in SERVED:
        teams[name].wait_for_runs("job", 2)
        teams[name].wait_for_condition("job", "Ready", "True")
        eventually(lambda name=name: has_history(admin, name), f"the history is there in {name}")

    # A resync has been through all that is stored, and has found out what is gone.
    ghost(stored, SERVED[0])
    ghost(stored, OTHER)
    eventually(lambda: stored.job(SERVED[0], "ghost") is None, "the resync has seen it is gone")

    assert stored.job(OTHER, "ghost") is not None, "of what it does not serve it knows nothing"
    other = teams[OTHER]
    assert other.get("job").get("status") is None
    assert other.jobs() == []
    assert other.events() == []
    asked = audited.requests_of_operator()
    # Without a namespace it reads what there is: the groups of the API.
    elsewhere = [
        each
        for each in asked
        if each["namespace"] not in (*SERVED, OPERATOR_NAMESPACE) and each["resource"]
    ]
    assert elsewhere == []
    created = {(each["namespace"], each["resource"]) for each in asked if each["verb"] == "create"}
    assert {(name, "jobs") for name in SERVED} <= created, "the log shows what it does"
    assert {(name, "configmaps") for name in SERVED} <= created
    # It asks for ConfigMaps one by one, by the names that are its own to give.
    asked_for = {(each["verb"], each["name"]) for each in asked if each["resource"] == "configmaps"}
    assert {verb for verb, _ in asked_for} <= {"get", "create", "patch"}
    assert {name for _, name in asked_for} <= {"job-zeus-history", ""}
    # Shipped rights suffice: nothing was refused.
    assert [each for each in asked if each["status"] in (401, 403)] == []
    assert not operator.has_ended


def test_deletions_are_seen_in_each_namespace(
    operator: OperatorProcess, teams: dict[str, ZeusJobs], stored: Store
) -> None:
    for name in SERVED:
        teams[name].apply("job", runs=1)
        teams[name].wait_for_runs("job", 1)

    for name in SERVED:
        teams[name].delete("job")

    for name in SERVED:
        eventually(lambda name=name: stored.job(name, "job") is None, f"{name} is tidied up")
        eventually(lambda name=name: not teams[name].jobs(), "with its children")


@pytest.mark.parametrize(
    "request_",
    [
        ("get", "zeusjobs", "--all-namespaces"),
        ("get", "jobs", "--all-namespaces"),
        ("get", "zeusjobs", "-n", OTHER),
        ("get", "pods", "-n", OTHER),
        ("get", "namespace", OTHER),
        ("get", "namespaces"),
        ("create", "job", "x", "--image=none", "-n", OTHER),
        ("get", "secrets", "-n", SERVED[0]),
        ("get", "configmaps", "-n", SERVED[0]),
        ("get", "configmap", "kube-root-ca.crt", "-n", OTHER),
        ("create", "configmap", "x", "-n", OTHER),
        ("delete", "configmap", "kube-root-ca.crt", "-n", SERVED[0]),
        ("delete", "zeusjob", "x", "-n", SERVED[0]),
        ("delete", "pod", "x", "-n", SERVED[0]),
    ],
    ids=" ".join,
)
def test_the_shipped_rights_allow_no_more(audited: Plane, request_: tuple[str, ...]) -> None:
    with pytest.raises(KubectlError, match="forbidden"):
        audited.plane.kubectl(*request_, as_user=audited.account)


@pytest.mark.parametrize(
    "request_",
    [
        ("create", "configmap", "x"),
        ("annotate", "configmap", "kube-root-ca.crt", "of=mine"),
    ],
    ids=" ".join,
)
def test_of_configmaps_it_writes_its_own_alone(audited: Plane, request_: tuple[str, ...]) -> None:
    def refused() -> bool:
        try:
            write(audited, *request_)
        except KubectlError as error:
            return "the operator writes ConfigMaps zeus-agent-ca and *-zeus-history" in str(error)
        return False  # a policy that has just been made is not in force yet

    eventually(refused, "the API server holds it to its own names")
    assert "created" in write(audited, "create", "configmap", "digits-zeus-history")


def write(audited: Plane, *request: str) -> str:
    """Ask as the operator; nothing is kept."""
    more = ("--dry-run=server", "-n", SERVED[0])
    return audited.plane.kubectl(*request, *more, as_user=audited.account)


def has_history(admin: Api, namespace: str) -> bool:
    path = f"/api/v1/namespaces/{namespace}/configmaps/job-zeus-history"
    return admin.find(path) is not None


def ghost(stored: Store, namespace: str) -> None:
    """Store a ZeusJob that the cluster does not have."""
    stored.apply_job(
        namespace,
        "ghost",
        zeusjob("ghost", namespace)["spec"],
        manifest_path="",
        policy="structured",
        seed=1,
        now=START,
        uid=f"ghost-of-{namespace}",
        namespace_uid="",
    )
