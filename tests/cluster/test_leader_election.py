"""Leader election between real processes at a real API server.

At no moment two of them act as the leader: each act carries the time of a clock that all share.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.processes import end, spawn
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]
TIMES = ("1.8", "1.2", "0.2")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("election") / "plane", find_binaries()) as plane:
        yield plane


class Replica:
    """A process that wants the Lease."""

    def __init__(self, kubeconfig: Path, namespace: str, name: str, log: Path) -> None:
        self.name = name
        self._log = log
        program = "tests.cluster.support.candidate"
        self.process: subprocess.Popen[bytes] = spawn(
            [sys.executable, "-m", program, str(kubeconfig), namespace, name, *TIMES],
            log,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"},
            cwd=ROOT,
        )

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def acts(self) -> list[float]:
        return [float(text) for text in re.findall(r"^acts (\S+)$", self.text, re.MULTILINE)]

    def await_(self, what: str) -> None:
        eventually(lambda: what in self.text, f"{self.name} says {what!r}: {self.text[-2000:]}")

    def acts_more(self) -> bool:
        """Whether it acts again after this call."""
        before = len(self.acts)
        return bool(eventually(lambda: len(self.acts) > before + 1, f"{self.name} acts"))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        end(self.process)


class Replicas:
    """Those of one test, in a namespace of its own."""

    def __init__(self, plane: ControlPlane, namespace: str, directory: Path) -> None:
        self._plane = plane
        self._directory = directory
        self.namespace = namespace
        self.all: list[Replica] = []

    def start(self, name: str, kubeconfig: Path | None = None) -> Replica:
        log = self._directory / f"{name}.log"
        replica = Replica(kubeconfig or self._plane.kubeconfig, self.namespace, name, log)
        self.all.append(replica)
        replica.await_("standby")
        return replica

    def pair(self, kubeconfig_of_leader: Path | None = None) -> tuple[Replica, Replica]:
        """Return a leader and a standby that has seen it."""
        leader = self.start("first", kubeconfig_of_leader)
        leader.await_("acts")
        return leader, self.start("second")

    def never_two_at_once(self) -> None:
        spans = sorted((r.acts[0], r.acts[-1], r.name) for r in self.all if r.acts)
        for (_, last, one), (first, _, other) in itertools.pairwise(spans):
            assert last < first, f"{other} acted before {one} had ended"

    def holder(self) -> str:
        with contextlib.closing(self._plane.api()) as api:
            path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/zeus-operator"
            return str(api.get(path)["spec"]["holderIdentity"])


_numbers = itertools.count()


@pytest.fixture
def replicas(plane: ControlPlane, tmp_path: Path) -> Iterator[Replicas]:
    namespace = f"election-{next(_numbers)}"
    with contextlib.closing(plane.api()) as api:
        api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    replicas = Replicas(plane, namespace, tmp_path)
    yield replicas
    for replica in replicas.all:
        replica.stop()
    replicas.never_two_at_once()


def test_one_leads_and_the_other_waits(replicas: Replicas) -> None:
    leader, standby = replicas.pair()
    assert leader.acts_more()
    assert replicas.holder() == "first"
    assert not standby.acts


def test_a_leader_that_stops_hands_over(replicas: Replicas) -> None:
    leader, standby = replicas.pair()
    assert end(leader.process) == 0
    leader.await_("stopped")
    standby.await_("acts")
    assert replicas.holder() == "second"


def test_a_leader_that_stops_alone_leaves_an_empty_lease(replicas: Replicas) -> None:
    leader = replicas.start("first")
    leader.await_("acts")
    end(leader.process)
    assert replicas.holder() == ""


def test_a_killed_leader_is_replaced(replicas: Replicas) -> None:
    leader, standby = replicas.pair()
    leader.signal(signal.SIGKILL)
    standby.await_("acts")


def test_a_leader_cut_off_gives_up_before_another_takes_over(
    plane: ControlPlane, replicas: Replicas, tmp_path: Path
) -> None:
    """Its connections are accepted, and never answered."""
    with Relay(plane.url) as relay:
        kubeconfig = tmp_path / "relayed.kubeconfig"
        kubeconfig.write_text(plane.kubeconfig.read_text().replace(plane.url, relay.url))
        leader, standby = replicas.pair(kubeconfig)
        relay.freeze()
        leader.await_("lost")
        standby.await_("acts")


def test_a_leader_that_slept_past_its_lease_wakes_as_nobody(replicas: Replicas) -> None:
    leader, standby = replicas.pair()
    leader.signal(signal.SIGSTOP)
    standby.await_("acts")
    leader.signal(signal.SIGCONT)
    leader.await_("lost")
    assert standby.acts_more()


def test_a_lease_that_somebody_deletes_is_made_anew_and_held_by_one(
    plane: ControlPlane, replicas: Replicas
) -> None:
    replicas.pair()
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{replicas.namespace}/leases/zeus-operator"
    with contextlib.closing(plane.api()) as api:
        api.delete(lease)
        eventually(lambda: api.find(lease), "the Lease is there again")
    holder = next(each for each in replicas.all if each.name == replicas.holder())
    assert holder.acts_more()


class Relay:
    """A TCP relay to the API server that can stop to move bytes while it still accepts."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = (target.hostname or "", target.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._frozen = threading.Event()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            each.close()

    def freeze(self) -> None:
        """Move no byte any more."""
        self._frozen.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                if self._frozen.is_set():
                    continue
                far = socket.create_connection(self._target)
                self._sockets.append(far)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._move, args=(one, other), daemon=True).start()

    def _move(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                if self._frozen.is_set():
                    return
                other.sendall(data)
