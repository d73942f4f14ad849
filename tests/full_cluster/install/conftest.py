"""One cluster for the package, whose GPUs are the chart's; one release for alike modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chart.support.helm import Helm, build_helm
from tests.cluster.support.api import Api
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.install.database import DatabaseForPods
from tests.full_cluster.install.digits import Team, team
from tests.full_cluster.install.images import archives
from tests.full_cluster.install.release import Release
from tests.full_cluster.install.releases import Releases
from tests.full_cluster.programs import Programs

MakeTeam = Callable[[], Team]


@pytest.fixture(scope="package")
def full_cluster(programs: Programs) -> Iterator[FullCluster]:
    """Two nodes without GPUs, and with the images of this repository."""
    images = archives()
    with FullCluster(programs, gpus=[(), ()]) as cluster:
        for archive in images.values():
            cluster.load_image(archive)
        yield cluster


@pytest.fixture(scope="package")
def database_server(
    full_cluster: FullCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseForPods]:
    """A PostgreSQL outside of the cluster."""
    addresses = full_cluster.addresses
    home = tmp_path_factory.mktemp("postgres")
    with DatabaseForPods(home, addresses.host, addresses.block) as server:
        yield server


@pytest.fixture(scope="package")
def helm(full_cluster: FullCluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm with the cluster."""
    return Helm(build_helm(), tmp_path_factory.mktemp("helm"), full_cluster.kubeconfig)


@pytest.fixture(scope="module")
def api(full_cluster: FullCluster) -> Iterator[Api]:
    """An administrator's client."""
    client = full_cluster.api()
    yield client
    client.close()


@pytest.fixture(scope="package")
def releases(
    full_cluster: FullCluster, database_server: DatabaseForPods, helm: Helm
) -> Iterator[Releases]:
    """Installs what a module wants."""
    with contextlib.closing(full_cluster.api()) as api:
        made = Releases(full_cluster, helm, api, database_server)
        yield made
        made.end()


@pytest.fixture(scope="module")
def release(
    request: pytest.FixtureRequest, releases: Releases, full_cluster: FullCluster
) -> Release:
    """The chart at work, on a database of its own; the one of the module before, if it is alike.

    The module's `CHANGES`, if it has some, are values; or what its `changes_on(cluster)` returns.
    """
    changes_on = getattr(request.module, "changes_on", None)
    changes = changes_on(full_cluster) if changes_on else getattr(request.module, "CHANGES", {})
    return releases.with_changes(changes)


@pytest.fixture(scope="module")
def make_team(
    release: Release, full_cluster: FullCluster, api: Api, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeTeam]:
    """Return a factory of namespaces; they go before the release does."""
    with contextlib.ExitStack() as made:

        def make() -> Team:
            folder: Path = tmp_path_factory.mktemp("team")
            return made.enter_context(team(full_cluster, api, folder))

        yield make
