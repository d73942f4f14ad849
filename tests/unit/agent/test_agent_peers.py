from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from zeus_agent import peers

CONNECT_AND_WAIT = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print("connected", flush=True)
sys.stdin.read()
"""


def _connected_child(tmp_path: Path) -> tuple[subprocess.Popen[str], socket.socket]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    child = subprocess.Popen(
        [sys.executable, "-c", CONNECT_AND_WAIT, str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    listener.settimeout(30)
    connection, _ = listener.accept()
    listener.close()
    return child, connection


def test_the_kernel_names_the_process_and_its_pidfd_tells_its_end(tmp_path: Path) -> None:
    child, connection = _connected_child(tmp_path)
    owner, pidfd = peers.identify(connection)
    assert (owner.pid, owner.uid) == (child.pid, os.getuid())
    assert owner.start_ticks == peers.start_ticks(child.pid)
    assert not peers.has_ended(pidfd)
    child.kill()
    eventually(lambda: peers.has_ended(pidfd), "the pidfd tells the end")
    os.close(pidfd)
    child.wait()
    connection.close()


def test_a_process_that_has_ended_is_not_identified(tmp_path: Path) -> None:
    child, connection = _connected_child(tmp_path)
    child.kill()
    child.wait()
    with pytest.raises(peers.PeerGone):
        peers.identify(connection)
    with pytest.raises(peers.PeerGone):
        peers.open_by_pid(peers.credentials(connection))
    connection.close()


def test_a_pid_that_is_reused_between_the_looks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = peers.Credentials(os.getpid(), os.getuid(), os.getgid())
    stat = tmp_path / str(credentials.pid) / "stat"
    stat.parent.mkdir()
    fields = ["0"] * 50

    def start_at(ticks: int) -> None:
        fields[19] = str(ticks)
        stat.write_text(f"1 (a ) b) {' '.join(fields)}")

    def opened_too_late(pid: int) -> int:
        start_at(2)
        return pidfd_open(pid)

    pidfd_open = os.pidfd_open
    monkeypatch.setattr(os, "pidfd_open", opened_too_late)
    start_at(1)
    with pytest.raises(peers.PeerGone, match="another process"):
        peers.open_by_pid(credentials, tmp_path)


def test_without_the_kernels_pidfd_the_process_is_known_by_pid_and_start_time() -> None:
    credentials = peers.Credentials(os.getpid(), os.getuid(), os.getgid())
    owner, pidfd = peers.open_by_pid(credentials)
    os.close(pidfd)
    assert owner.start_ticks == peers.start_ticks(os.getpid())
