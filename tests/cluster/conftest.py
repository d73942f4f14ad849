"""A real control plane for the session; namespaces, databases and operators for each test."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.support.api import Api, ApiFailure
from tests.cluster.support.binaries import Binaries, find_binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.diagnosis import diagnosis
from tests.cluster.support.endings import Trainer
from tests.cluster.support.installed import (
    OPERATOR_NAMESPACE,
    SERVICE_ACCOUNT,
    allow_lease,
    install,
)
from tests.cluster.support.kubelet import SimulatedNode
from tests.cluster.support.namespaces import create_namespace, remove_namespace
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.own_postgres import OwnPostgres
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.postgres import database, postgres_server
from zeus_operator.store.connection import StoreError
from zeus_operator.store.store import Store

__all__ = ["database", "postgres_server"]

FAILED = pytest.StashKey[bool]()
LEFT_OUT = pytest.StashKey[list[str]]()
LOG_LINES = 200
FULL = "ZEUS_TEST_FULL"

MakeNode = Callable[..., SimulatedNode]
MakeOperator = Callable[..., OperatorProcess]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"full: takes minutes; only with {FULL}=1 (make test-full)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `full`, unless it is asked for; the summary says so."""
    if os.environ.get(FULL) == "1":
        return
    left_out = [item for item in items if item.get_closest_marker("full") is not None]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.stash[LEFT_OUT] = [item.nodeid for item in left_out]
        if hasattr(config, "workeroutput"):  # of pytest-xdist: this process prints no summary
            config.workeroutput["left_out"] = config.stash[LEFT_OUT]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take from a process of pytest-xdist what it has left out; each of them collects the same."""
    left_out = getattr(node, "workeroutput", {}).get("left_out")
    if left_out:
        node.config.stash[LEFT_OUT] = left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = terminalreporter.config.stash.get(LEFT_OUT, [])
    if left_out:
        terminalreporter.section(f"left to `make test-full` ({FULL}=1)")
        for nodeid in left_out:
            terminalreporter.write_line(nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep for the fixtures whether their test failed: at this try, if it has a second one."""
    report = yield
    has_failed = report.when != "setup" and item.stash.get(FAILED, False)
    item.stash[FAILED] = has_failed or report.failed
    return report


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """The programs of a control plane, built if they are not there yet (minutes, once).

    A machine that can't build them fails every test here and says why: nothing is skipped.
    """
    return find_binaries()


@pytest.fixture(scope="session")
def cluster(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the CRD, the admission policy and the operator's rights."""
    with ControlPlane(tmp_path_factory.mktemp("cluster") / "plane", binaries) as plane:
        install(plane)
        yield plane


@pytest.fixture
def own_cluster(binaries: Binaries, tmp_path: Path) -> Iterator[ControlPlane]:
    """A bare control plane that only this test uses, and may end."""
    with ControlPlane(tmp_path / "plane", binaries) as plane:
        yield plane


@pytest.fixture
def api(cluster: ControlPlane) -> Iterator[Api]:
    """An administrator's client."""
    client = cluster.api()
    yield client
    client.close()


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    """Name of a fresh namespace; its deletion is not waited for."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    create_namespace(cluster, name)
    yield name
    remove_namespace(cluster, name)


@pytest.fixture
def make_node(api: Api, namespace: str) -> Iterator[MakeNode]:
    """Return a factory of running nodes for the pods of the namespace, all stopped at the end.

    `make_node(trainer, **options)`: as `SimulatedNode`.
    """
    made: list[SimulatedNode] = []

    def make(trainer: Trainer, **options: Any) -> SimulatedNode:
        made.append(SimulatedNode(api, trainer, **{"namespace": namespace, **options}).start())
        return made[-1]

    yield make
    for node in made:
        node.stop()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    """A PostgreSQL server that only this test uses, and may kill."""
    with OwnPostgres(tmp_path / "postgres") as server:
        yield server


@pytest.fixture(scope="session")
def service_account(cluster: ControlPlane) -> Path:
    """Kubeconfig with the rights that deploy/rbac.yaml gives the operator, and no others."""
    return cluster.kubeconfig_for(SERVICE_ACCOUNT, OPERATOR_NAMESPACE)


@pytest.fixture
def make_operator(
    request: pytest.FixtureRequest,
    cluster: ControlPlane,
    tmp_path: Path,
    service_account: Path,
    namespace: str,
    database: str,
) -> Iterator[MakeOperator]:
    """Return a factory of operators, all stopped at the end.

    `make_operator(database_url=…, **settings)` returns an operator that is not started.  Its Lease
    is in the namespace of the test, so that tests do not wait for each other's; it watches that
    namespace alone unless `watch_namespaces` says else.
    """
    allow_lease(cluster, namespace)
    made: list[OperatorProcess] = []
    began = datetime.now(UTC)

    def make(*, database_url: str = database, **settings: Any) -> OperatorProcess:
        chosen = {"watch_namespaces": namespace, "clock_since": began, **settings}
        operator = OperatorProcess(tmp_path, service_account, database_url, namespace, **chosen)
        made.append(operator)
        return operator

    yield make
    for operator in made:
        operator.kill()
    if request.node.stash.get(FAILED, False):
        for operator in made:
            print(f"--- the end of the log of {operator.name} ---")
            print("\n".join(operator.log.splitlines()[-LOG_LINES:]))


@pytest.fixture
def stored(database: str) -> Iterator[Store]:
    """The operator's store, to look into."""
    store = Store.connect(database)
    yield store
    store.close()


@pytest.fixture
def zeusjobs(
    request: pytest.FixtureRequest, api: Api, namespace: str, stored: Store
) -> Iterator[ZeusJobs]:
    """The ZeusJobs of the namespace; of a test that fails, all that it holds is printed."""
    yield ZeusJobs(api, namespace, stored)
    if request.node.stash.get(FAILED, False):
        print(f"--- what {namespace} holds ---")
        with contextlib.suppress(ApiFailure, StoreError):  # a test may have ended either
            print(diagnosis(api, namespace, stored))
