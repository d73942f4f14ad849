"""Child processes that never outlive the process that started them, SIGKILL included."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STOP_SECONDS = 10.0

# The kernel kills the program when the thread that started it ends, so that thread must live as
# long as the process does.  A shim instead of `preexec_fn`: no Python runs between fork and exec
# of a process that has threads.
_SHIM = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:  # PR_SET_PDEATHSIG
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""
_starter: ThreadPoolExecutor | None = None
_starter_lock = threading.Lock()


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command`, its output appended to `log`; it dies with this process.

    In a session of its own, so that a Ctrl-C at the terminal goes to the tests alone.

    Args:
        command: the program by its path, and arguments.
    """

    def start() -> subprocess.Popen[bytes]:
        shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid())]
        with log.open("ab") as output:
            return subprocess.Popen(
                [*shim, *(str(part) for part in command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    return _in_starter(start)


def _in_starter(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    global _starter
    with _starter_lock:
        if _starter is None:
            _starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
    return _starter.submit(start).result()


def end(process: subprocess.Popen[bytes], *, kill: bool = False) -> int:
    """End `process` by SIGTERM, by SIGKILL if that does not help, and return its exit code."""
    if process.poll() is None:
        process.kill() if kill else process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def free_ports(count: int) -> list[int]:
    """Return free ports of the loopback, below those that the kernel hands to clients.

    So a server that is away for a while finds its port free when it comes back.
    """
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(10_000, max(lowest_ephemeral, 11_000))
    found: list[int] = []
    for port in random.sample(candidates, len(candidates)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free ports on the loopback")
