"""A release on a real API server: what an upgrade changes, and what is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.support.helm import (
    CHART,
    LEAST,
    RELEASE,
    REPOSITORY,
    Helm,
    HelmError,
    Values,
    merged,
)
from tests.cluster.support.api import Api
from tests.cluster.support.control_plane import ControlPlane, KubectlError
from tests.cluster.support.namespaces import create_namespace
from tests.cluster.support.operator_process import OperatorProcess
from tests.support.eventually import eventually
from zeus_operator.trust.objects import AUTHORITY_SECRET, CERTIFICATE_SECRET

SLOW_SECONDS = 300.0
"""Longest time for what takes seconds on a machine that is not busy with other tests."""

EVALUATION: Values = {"image": LEAST["image"], "postgresql": {"enabled": True}}
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/zeusjobs.zeus.energy"
ZEUSJOB: dict[str, Any] = {
    "apiVersion": "zeus.energy/v1alpha1",
    "kind": "ZeusJob",
    "metadata": {"name": "nightly"},
    "spec": {
        "suspend": True,
        "objective": {"metric": {"target": "0.5", "mode": "Max"}, "maxEpochs": 1},
        "batchSize": {"default": 1, "choices": [1, 2]},
        "workload": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "template": {
                "spec": {
                    "template": {
                        "spec": {"containers": [{"name": "train", "image": "registry.example/t"}]}
                    }
                }
            },
        },
    },
}


@pytest.fixture
def release(helm_here: Helm, cluster: ControlPlane, namespace: str) -> Iterator[str]:
    """The namespace for a release of the test, which is gone afterwards with all it has left."""
    yield namespace
    if RELEASE in helm_here.run("list", "--short", "--namespace", namespace):
        helm_here.uninstall(namespace=namespace)
    cluster.kubectl("delete", "crd", "zeusjobs.zeus.energy", "--ignore-not-found")


def found(cluster: ControlPlane, namespace: str, *kinds: str) -> set[str]:
    """Return what there is of `kinds`, of the namespace or the cluster, as kind/name."""
    lines = cluster.kubectl("get", ",".join(kinds), "-n", namespace, "-o", "name").split()
    return {
        line.partition("/")[0].partition(".")[0] + "/" + line.partition("/")[2] for line in lines
    }


def is_served(cluster: ControlPlane) -> bool:
    return "zeusjobs" in cluster.kubectl("api-resources", "--api-group=zeus.energy")


def test_an_install_tells_the_next_step(
    helm_here: Helm, cluster: ControlPlane, release: str
) -> None:
    notes = helm_here.install(EVALUATION, namespace=release)

    assert f"helm test {RELEASE} --namespace {release}" in notes
    assert f"kubectl label namespace {release} pod-security.kubernetes.io/enforce=priv" in notes
    assert "nvidia.com/gpu.present=true" in notes
    assert "kubectl explain zeusjob.spec" in notes
    assert "NOT FOR PRODUCTION" in notes
    assert "SIMULATED" not in notes
    assert {
        *("deployment/zeus-operator", "daemonset/zeus-agent", "statefulset/zeus-postgresql"),
        *("service/zeus-operator", "service/zeus-agent", "poddisruptionbudget/zeus-operator"),
    } <= found(cluster, release, "deploy,ds,sts,svc,pdb")


def test_notes_tell_what_is_special_about_a_release(helm_here: Helm, release: str) -> None:
    values = merged(
        LEAST,
        {
            "gpuSimulator": {"enabled": True},
            "agent": {"policy": {"dryRun": True}},
            "watchNamespaces": [release],
        },
    )

    notes = helm_here.install(values, namespace=release)

    assert "SIMULATED: nodes with kubernetes.io/os=linux offer nvidia.com/gpu" in notes
    assert "DRY RUN" in notes
    assert f"It serves the ZeusJobs of: {release}." in notes
    assert "NOT FOR PRODUCTION" not in notes


def test_zeusjobs_are_checked_as_soon_as_the_release_is_there(
    helm_here: Helm, cluster: ControlPlane, release: str
) -> None:
    helm_here.install(namespace=release)
    wrong = json.loads(json.dumps(ZEUSJOB))
    wrong["spec"]["workload"]["template"]["spec"]["backoffLimit"] = 3
    eventually(lambda: is_served(cluster), "ZeusJobs are served")

    def refused() -> bool:
        try:
            apply(cluster, release, wrong, "--dry-run=server")
        except KubectlError as error:
            return "backoffLimit: must be 0 or left out" in str(error)
        return False

    # The API server takes a moment to load a new policy.
    eventually(refused, "a wrong template is refused")
    apply(cluster, release, ZEUSJOB)


def apply(cluster: ControlPlane, namespace: str, item: dict[str, Any], *more: str) -> None:
    cluster.kubectl("apply", "-n", namespace, *more, "-f", "-", input=yaml.safe_dump(item))


def test_an_upgrade_renews_the_crd_and_takes_away_what_is_no_longer_wanted(
    helm_here: Helm, cluster: ControlPlane, api: Api, release: str, chart_copy: Path
) -> None:
    crd = chart_copy / "templates" / "crds" / "zeusjobs.yaml"
    crd.write_text(crd.read_text().replace("name: Savings %", "name: Savings of old"))
    helm_here.install(EVALUATION, namespace=release, chart=chart_copy)
    eventually(lambda: is_served(cluster), "ZeusJobs are served")
    apply(cluster, release, ZEUSJOB)

    values = merged(EVALUATION, {"agent": {"enabled": False}, "operator": {"replicas": 3}})
    helm_here.upgrade(values, namespace=release, chart=CHART)

    columns = api.get(CRD)["spec"]["versions"][0]["additionalPrinterColumns"]
    assert "Savings %" in {each["name"] for each in columns}
    there = found(cluster, release, "deploy,ds,sts,zeusjobs,cm")
    assert {"zeusjob/nightly", "deployment/zeus-operator"} <= there
    assert not {each for each in there if "zeus-agent" in each}
    deployment = api.get(f"/apis/apps/v1/namespaces/{release}/deployments/zeus-operator")
    assert deployment["spec"]["replicas"] == 3


def test_an_uninstall_leaves_what_people_have_made_and_learned(
    helm_here: Helm, cluster: ControlPlane, release: str
) -> None:
    helm_here.install(EVALUATION, namespace=release)
    eventually(lambda: is_served(cluster), "ZeusJobs are served")
    apply(cluster, release, ZEUSJOB)

    helm_here.uninstall(namespace=release)

    kinds = "deploy,ds,sts,svc,pdb,netpol,role,rolebinding,secret,zeusjobs"
    eventually(
        lambda: found(cluster, release, kinds) == {"secret/zeus-postgresql", "zeusjob/nightly"},
        "only the ZeusJob and the password of the data are left",
    )
    wide = found(
        cluster,
        release,
        "clusterrole,clusterrolebinding,crd,validatingadmissionpolicy,"
        "validatingadmissionpolicybinding",
    )
    assert {each for each in wide if "zeus" in each} == {
        "customresourcedefinition/zeusjobs.zeus.energy"
    }


def test_a_crd_that_is_not_to_be_kept_goes_with_the_release(
    helm_here: Helm, api: Api, release: str
) -> None:
    notes = helm_here.install(merged(LEAST, {"crds": {"keep": False}}), namespace=release)
    assert "The CRD goes with the release" in notes

    helm_here.uninstall(namespace=release)

    eventually(lambda: api.find(CRD) is None, "the CRD is gone")


def test_the_password_of_the_data_stays_from_install_to_install(
    helm_here: Helm, api: Api, release: str
) -> None:
    def password() -> str:
        path = f"/api/v1/namespaces/{release}/secrets/zeus-postgresql"
        return str(api.get(path)["data"]["password"])

    helm_here.install(EVALUATION, namespace=release)
    first = password()
    helm_here.upgrade(EVALUATION, namespace=release)
    upgraded = password()
    helm_here.uninstall(namespace=release)
    helm_here.install(EVALUATION, namespace=release)

    assert (upgraded, password()) == (first, first)


def test_another_password_than_the_datas_is_refused_until_it_is_changed_there(
    helm_here: Helm, cluster: ControlPlane, release: str
) -> None:
    other = merged(EVALUATION, {"postgresql": {"password": "another"}})
    helm_here.install(EVALUATION, namespace=release)

    with pytest.raises(HelmError) as caught:
        helm_here.upgrade(other, namespace=release)
    assert "postgresql.password is another one than the database has" in str(caught.value)

    # What the message says, but for the database, whose pod nobody runs here.
    delete = f"kubectl delete secret zeus-postgresql --namespace {release}"
    assert f"ALTER USER zeus PASSWORD '...'; then {delete}, upgrade" in str(caught.value)
    cluster.kubectl(*delete.split()[1:])
    helm_here.upgrade(other, namespace=release)
    helm_here.upgrade(other, namespace=release)  # the same one again is taken


def test_a_second_release_is_refused(helm_here: Helm, cluster: ControlPlane, release: str) -> None:
    helm_here.install(namespace=release)
    create_namespace(cluster, other := f"{release}-b")

    with pytest.raises(HelmError, match="invalid ownership metadata"):
        helm_here.install(namespace=other, release="second")


def test_what_was_applied_by_hand_is_taken_into_a_release(
    helm_here: Helm, cluster: ControlPlane, api: Api, release: str
) -> None:
    for file in ("crds", "deploy/admission-policy.yaml"):
        cluster.kubectl("apply", "-f", str(REPOSITORY / file))

    with pytest.raises(HelmError, match="invalid ownership metadata"):
        helm_here.install(namespace=release)
    helm_here.install(namespace=release, more=("--take-ownership", "--force-conflicts"))

    labels = api.get(CRD)["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_an_unknown_key_is_refused_before_anything_is_made(
    helm_here: Helm, cluster: ControlPlane, release: str
) -> None:
    with pytest.raises(HelmError, match="additional properties 'replica' not allowed"):
        helm_here.install(merged(LEAST, {"operator": {"replica": 3}}), namespace=release)

    assert found(cluster, release, "deploy,ds,svc,role,pdb") == set()


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_of_a_check_only_the_pod_that_failed_is_left(
    helm_here: Helm, cluster: ControlPlane, release: str, phase: str
) -> None:
    """Account and rights go either way: they can have pods started."""
    helm_here.install(namespace=release)
    kinds = "sa,role,rolebinding,pod"

    def said() -> str:
        try:
            helm_here.run("test", RELEASE, "--namespace", release, "--timeout", "300s")
        except HelmError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(1) as side:
        check = side.submit(said)
        name = "zeus-operator-test"
        all_of_it = {f"{each}/{name}" for each in ("serviceaccount", "role", "rolebinding", "pod")}
        eventually(
            lambda: all_of_it <= found(cluster, release, kinds) or check.done(),
            "the check is there",
            SLOW_SECONDS,
        )
        assert not check.done(), check.result()
        # As the kubelet says how a pod has ended.
        status = json.dumps({"status": {"phase": phase}})
        cluster.kubectl(
            *("patch", "pod", name, "-n", release, "--subresource=status", "--patch", status)
        )
        assert bool(check.result()) == (phase == "Failed"), check.result()

    left = {each for each in found(cluster, release, kinds) if each.endswith(name)}
    assert left == ({f"pod/{name}"} if phase == "Failed" else set())


def test_the_operator_works_with_the_rights_of_the_release_and_helm_test_says_so(
    helm_here: Helm, cluster: ControlPlane, release: str, database: str, tmp_path: Path
) -> None:
    """The operator is a process here, with the account, the rights and the CRD of the chart."""
    helm_here.install(namespace=release)
    for each in helm_here.render(namespace=release).objects:
        is_hook = "helm.sh/hook" in each["metadata"].get("annotations", {})
        if is_hook and each["kind"] != "Pod":
            apply(cluster, release, each)
    account = cluster.kubeconfig_for("zeus-operator", release)
    settings: dict[str, Any] = {
        "agent_service": f"zeus-agent.{release}",
        # Nobody restarts the process here, as the kubelet would: no time of a busy machine is to be
        # one after which it ends.
        "lease_duration_seconds": "300",
        "renew_deadline_seconds": "240",
        "statement_timeout_seconds": "120",
        "transaction_idle_timeout_seconds": "120",
        "resync_seconds": "300",
    }
    operator = OperatorProcess(tmp_path, account, database, release, **settings)
    try:
        operator.start().wait_until_ready(SLOW_SECONDS)
        (port,) = map(int, re.findall(r"health and metrics on port (\d+)", operator.log))
        checked = helm_test(cluster, release, port, tmp_path, patience_seconds=SLOW_SECONDS)
        eventually(
            lambda: (
                {f"secret/{AUTHORITY_SECRET}", f"secret/{CERTIFICATE_SECRET}"}
                <= found(cluster, release, "secret")
            ),
            "the agents' certificate is made",
            SLOW_SECONDS,
        )
        assert (checked.stderr, checked.stdout) == ("", "operator: ok\napi_server: ok\n")
        assert checked.returncode == 0

        cluster.kubectl("delete", "validatingadmissionpolicybinding", "zeus-operator-zeusjobs")
        eventually(
            lambda: (
                "not refused by the admission policy"
                in helm_test(cluster, release, port, tmp_path).stderr
            ),
            "the check finds that the policy is away",
            SLOW_SECONDS,
        )
        operator.stop()
        assert "operator: the replica 127.0.0.1 is not ready (0)" in (
            helm_test(cluster, release, port, tmp_path).stderr
        )
    finally:
        operator.kill()
        print(operator.log)  # shown only if the test fails


def helm_test(
    cluster: ControlPlane, namespace: str, port: int, directory: Path, patience_seconds: float = 0
) -> subprocess.CompletedProcess[str]:
    """Run the check of `helm test` with the account that its pod has."""
    user = yaml.safe_load(cluster.kubeconfig_for("zeus-operator-test", namespace).read_text())
    (directory / "token").write_text(user["users"][0]["user"]["token"])
    (directory / "ca.crt").write_bytes(cluster.authority.certificate.read_bytes())
    host, _, api_port = cluster.url.removeprefix("https://").rpartition(":")
    return subprocess.run(
        [sys.executable, str(CHART / "files" / "tests" / "check.py")],
        env={
            "PATH": os.environ["PATH"],
            "ACCOUNT": str(directory),
            "HAS_POLICY": "true",
            "HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": api_port,
            "NAMESPACE": namespace,
            "PATIENCE_SECONDS": str(patience_seconds),
            "PORT": str(port),
            "REPLICAS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
