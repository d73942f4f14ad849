"""The embedded server: shared, private, gone with its last user, healed after every crash."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.eventually import eventually
from zeus_operator.store import embedded
from zeus_operator.store.embedded import EmbeddedPostgres, EmbeddedPostgresError
from zeus_operator.store.postmaster import Layout, has_exited, running_postmaster

pytestmark = pytest.mark.postgres

USER_PROGRAM = """
import sys
from pathlib import Path
from zeus_operator.store.embedded import EmbeddedPostgres
url = EmbeddedPostgres(Path(sys.argv[1]), linger_seconds=0).start()
print(url, flush=True)
sys.stdin.read()
"""


def start_user(home: Path) -> tuple[subprocess.Popen[str], str]:
    """Start another process that uses the server; returns it with the URL it got."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER_PROGRAM, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def ask(url: str, question: str) -> object:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(question).fetchone()  # type: ignore[arg-type]  # a plain string
        assert row is not None
        return row[0]


def is_stopped(home: Path) -> bool:
    return running_postmaster(Layout(home).cluster) is None


def guard_is_gone(home: Path) -> bool:
    return is_stopped(home) and not guards(home)


def guards(home: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"zeus_operator.store.embedded_guard" in words and str(home).encode() in words:
            found.append(int(entry.name))
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "postgres"


def test_it_is_a_real_server_on_a_private_socket_and_no_tcp_port(home: Path) -> None:
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        url = server.start()
        assert str(ask(url, "SHOW server_version")).startswith("18")
        assert ask(url, "SHOW listen_addresses") == ""
        assert ask(url, "SHOW server_encoding") == "UTF8"
        socket = home / "socket"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    eventually(lambda: guard_is_gone(home), "the server ends with its only user")


def test_data_survives_a_stop_and_a_start(home: Path) -> None:
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        url = server.start()
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    eventually(lambda: guard_is_gone(home), "the server ends")
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        assert ask(server.start(), "SELECT answer FROM kept") == 42


def test_processes_share_one_server_which_outlives_the_one_that_started_it(home: Path) -> None:
    first, url = start_user(home)
    second, same_url = start_user(home)
    try:
        assert same_url == url
        postmaster = running_postmaster(Layout(home).cluster)
        assert postmaster is not None
        kill_group(first)
        assert ask(url, "SELECT 1") == 1
        still = running_postmaster(Layout(home).cluster)
        assert still is not None
        assert still.pid == postmaster.pid
        assert len(guards(home)) == 1
    finally:
        kill_group(second)
    eventually(lambda: guard_is_gone(home), "the last user was killed")


def test_many_that_start_at_once_get_one_server(home: Path) -> None:
    users = [
        subprocess.Popen(
            [sys.executable, "-c", USER_PROGRAM, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for _ in range(4)
    ]
    urls = set()
    for user in users:
        assert user.stdout is not None
        urls.add(user.stdout.readline().strip())
    assert len(urls) == 1
    assert ask(urls.pop(), "SELECT 1") == 1
    for user in users:
        kill_group(user)
    eventually(lambda: guard_is_gone(home), "all users were killed")


def test_a_killed_server_comes_back_at_the_next_start(home: Path) -> None:
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        server.start()
        killed = running_postmaster(Layout(home).cluster)
        assert killed is not None
        os.kill(killed.pid, signal.SIGKILL)
        eventually(lambda: has_exited(killed.pid), "the postmaster dies")
        assert ask(server.start(), "SELECT 1") == 1


def test_a_killed_guard_is_replaced_at_the_next_start(home: Path) -> None:
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        (guard,) = guards(home)
        os.kill(guard, signal.SIGKILL)
        # Not before it has exited: its lock outlives its command line for a moment.
        eventually(lambda: has_exited(guard), "the guard dies")
        server.start()
        eventually(lambda: len(guards(home)) == 1, "there is a new guard")
    eventually(lambda: guard_is_gone(home), "the new guard stops the server")


def test_a_pid_file_that_names_a_stranger_does_not_keep_the_server_from_starting(
    home: Path,
) -> None:
    with EmbeddedPostgres(home, linger_seconds=0):
        pass
    eventually(lambda: guard_is_gone(home), "the server ends")
    pid_file = Layout(home).cluster / "postmaster.pid"
    lines = [str(os.getppid()), str(Layout(home).cluster), "1", "5432", "/nowhere", "", "", "ready"]
    pid_file.write_text("\n".join(lines) + "\n")
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        assert ask(server.start(), "SELECT 1") == 1


def test_a_history_of_another_major_version_is_left_alone_and_named(home: Path) -> None:
    with EmbeddedPostgres(home, linger_seconds=0):
        pass
    eventually(lambda: guard_is_gone(home), "the server ends")
    version = Layout(home).cluster / "PG_VERSION"
    version.write_text("17\n")
    refused = pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 17, .* PostgreSQL 18")
    with refused, EmbeddedPostgres(home, linger_seconds=0):
        pass
    assert version.read_text() == "17\n"
    eventually(lambda: guard_is_gone(home), "nobody uses it")


def test_a_half_made_cluster_is_made_again(home: Path) -> None:
    half = home / "initialising-crashed"
    half.mkdir(parents=True, mode=0o700)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        assert ask(server.start(), "SELECT 1") == 1
    assert not half.exists()


def test_a_long_path_gets_a_short_private_socket_directory_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    home = tmp_path / ("long" * 30) / "postgres"
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        url = server.start()
        assert ask(url, "SELECT 1") == 1
        directory = Path(str(ask(url, "SHOW unix_socket_directories")))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    eventually(lambda: guard_is_gone(home), "the server ends")
    with EmbeddedPostgres(home, linger_seconds=0) as server:
        assert server.start() == url
    eventually(lambda: guard_is_gone(home), "the server ends")
    directory.rmdir()


def test_without_the_package_the_error_says_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedPostgresError, match="DATABASE_URL"):
        EmbeddedPostgres(home, linger_seconds=0).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a user namespace")
def test_root_that_may_not_make_a_namespace_is_told_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EmbeddedPostgresError, match="normal user"):
        EmbeddedPostgres(home, linger_seconds=0).start()


def test_the_guard_starts_light() -> None:
    heavy = ("sqlalchemy", "alembic", "psycopg", "pydantic", "numpy")
    program = (
        "import sys, zeus_operator.store.embedded_guard; "
        f"sys.exit(','.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
