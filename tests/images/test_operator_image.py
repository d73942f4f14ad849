"""The operator's image: it leads from a read-only file system, as nobody in particular."""

from __future__ import annotations

import base64
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sqlalchemy.engine import make_url

from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT, install
from tests.images.containers import Container, Image, Mount, Runc, Running
from tests.support.eventually import eventually
from tests.support.postgres import database, postgres_server

__all__ = ["database", "postgres_server"]

SOMEBODY = 1_000_650_000
"""As some clusters choose a user for each namespace: no image knows of it."""
POD_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_it_says_what_can_be_set(operator_image: Image, runc: Runc) -> None:
    done = runc.run(Container(operator_image, arguments=["--help"]))

    assert done.code == 0, done.errors
    assert done.output.startswith("Usage: zeus-operator")


def test_what_is_missing_is_said_in_words(operator_image: Image, runc: Runc) -> None:
    done = runc.run(Container(operator_image))

    assert done.code == 2
    assert "DATABASE_URL" in done.errors
    assert "Traceback" not in done.errors


@pytest.fixture
def pod_account(tmp_path: Path) -> Iterator[tuple[ControlPlane, Path]]:
    """A control plane, and the folder that its pods of the operator's account have."""
    with ControlPlane(tmp_path / "plane", find_binaries()) as plane:
        install(plane)
        kubeconfig = yaml.safe_load(
            plane.kubeconfig_for(SERVICE_ACCOUNT, OPERATOR_NAMESPACE).read_text()
        )
        folder = tmp_path / "account"
        folder.mkdir()
        (cluster,), (user,) = kubeconfig["clusters"], kubeconfig["users"]
        authority = base64.b64decode(cluster["cluster"]["certificate-authority-data"])
        (folder / "ca.crt").write_bytes(authority)
        (folder / "token").write_text(user["user"]["token"])
        (folder / "namespace").write_text(OPERATOR_NAMESPACE)
        yield plane, folder


class OpenedDatabase:
    """The test's database as somebody else in a container reaches it: by a mounted socket."""

    def __init__(self, url: str) -> None:
        here = make_url(url)
        folder = Path(str(here.query["host"]))
        folder.chmod(0o755)
        for socket in folder.glob(".s.PGSQL.*"):
            if socket.is_socket():
                socket.chmod(0o777)
        self.mount = Mount(folder, "/database")
        self.url = here.update_query_dict({"host": "/database"}).render_as_string(False)


def test_it_leads_as_any_user_with_nothing_to_write_to(
    operator_image: Image,
    runc: Runc,
    pod_account: tuple[ControlPlane, Path],
    database: str,
) -> None:
    plane, account = pod_account
    store = OpenedDatabase(database)
    host, port = plane.url.removeprefix("https://").split(":")
    container = Container(
        operator_image,
        environment={
            "DATABASE_URL": store.url,
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "ZEUS_OPERATOR_HTTP_HOST": "127.0.0.1",
            "ZEUS_OPERATOR_HTTP_PORT": "0",
            "ZEUS_OPERATOR_POD_NAME": "operator-0",
        },
        mounts=[Mount(account, POD_ACCOUNT), store.mount],
        user=SOMEBODY,
    )

    with runc.started(container) as operator:
        eventually(
            lambda: operator.has_ended or "first list: ok" in _readiness(operator),
            "it leads and has its first list",
        )
        assert not operator.has_ended, operator.errors
        operator.send(signal.SIGTERM)
        done = operator.wait()

    assert done.code == 0, done.errors
    assert "Read-only file system" not in done.errors
    assert "Permission denied" not in done.errors
    lease = plane.kubectl(
        *("get", "lease", "zeus-operator", "-n", OPERATOR_NAMESPACE),
        *("-o", "jsonpath={.spec.holderIdentity}"),
    )
    assert lease == ""  # given back


def _readiness(operator: Running) -> str:
    ports = re.findall(r"health and metrics on port (\d+)", operator.errors + operator.output)
    if not ports:
        return ""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}/readyz", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
