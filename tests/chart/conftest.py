"""Helm, and a control plane to install the chart into."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.support.helm import CHART, Helm, build_helm, prometheus_operator_crds
from tests.cluster.support.api import Api
from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.namespaces import create_namespace
from tests.support.postgres import database, postgres_server

__all__ = ["database", "postgres_server"]

MONITORS = ("servicemonitors", "podmonitors", "prometheusrules")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    return Helm(build_helm(), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the CRDs of the Prometheus Operator, and nothing of ours."""
    # As every cluster with DaemonSets for devices has it; where pods may be, Pod Security says.
    flags = ("--allow-privileged=true",)
    folder = tmp_path_factory.mktemp("chart") / "plane"
    with ControlPlane(folder, find_binaries(), api_server_flags=flags) as plane:
        for file in prometheus_operator_crds(MONITORS):
            # They are too large for the annotation of a client-side apply.
            plane.kubectl("apply", "--server-side", "-f", str(file))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
        yield plane


@pytest.fixture
def api(cluster: ControlPlane) -> Iterator[Api]:
    """An administrator's client."""
    client = cluster.api()
    yield client
    client.close()


@pytest.fixture
def helm_here(helm: Helm, cluster: ControlPlane) -> Helm:
    """Helm with the cluster."""
    return dataclasses.replace(helm, kubeconfig=cluster.kubeconfig)


@pytest.fixture
def namespace(cluster: ControlPlane) -> str:
    """Name of a fresh namespace."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    create_namespace(cluster, name)
    return name


@pytest.fixture
def chart_copy(tmp_path: Path) -> Path:
    """A copy of the chart, to be changed."""
    return Path(shutil.copytree(CHART, tmp_path / "zeus-operator"))
