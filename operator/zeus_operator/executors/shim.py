"""The process between the program and a training script: it outlives the one to end the other.

Started by the local executor for each execution of an attempt, in a session of its own, like
containerd's shim.  It claims the execution's directory, takes the GPUs, starts the child in a
process group of its own, and at its end records how it ended.  When the program that started it
dies, by whatever signal, the pipe between them closes; the shim then ends the child.  When the
shim itself is killed, the kernel kills the child (parent-death signal), and the executor records
that nobody saw its end.

Started as ``python -P -m zeus_operator.executors.shim DIRECTORY LIFELINE READY SPEC`` where the
last three are inherited descriptors.  Standard library only, since it starts once per attempt.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zeus_operator.executors import gpu_locks, output, rundir
from zeus_operator.executors.gpu_locks import GpuLock
from zeus_operator.executors.rundir import Claim, Exit, Started, StopRequest

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GPU_RETRY_SECONDS = 0.5
_SWEEP_SECONDS = 10.0
_OUTPUT_CHECK_SECONDS = 5.0


@dataclass(frozen=True)
class ChildSpec:
    """What to start.

    Args:
        arguments: the command and its arguments; the first is looked up in `environment`'s PATH.
        environment: the whole environment of the child.
        folder: its working directory.
        gpu_count: GPUs to take from `gpu_uuids`; they become CUDA_VISIBLE_DEVICES.
        gpu_machine: whose GPUs they are; see `gpu_locks`.
        orphan_grace_seconds: from SIGTERM to SIGKILL when the starting program is gone.
        output_limit_bytes: of output that is kept; see `output.bound`.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    gpu_count: int
    gpu_uuids: tuple[str, ...]
    gpu_machine: str
    orphan_grace_seconds: float
    output_limit_bytes: int


@dataclass
class _Ending:
    """Why the child has to end, and by when."""

    stop: StopRequest | None = None
    orphaned: bool = False
    terminate_sent: bool = False
    kill_at: float = math.inf


class Shim:
    """Runs one child from its start to its recorded end.

    Args:
        directory: of this execution; claimed by this process.
        spec: what to start.
        lifeline: read end of a pipe whose other end only the starting program holds.
        wakeup: becomes readable when a signal came.
    """

    def __init__(self, directory: Path, spec: ChildSpec, lifeline: int, wakeup: int) -> None:
        self._directory = directory
        self._spec = spec
        self._wakeup = wakeup
        self._lifeline = lifeline
        self._poll = select.poll()
        self._poll.register(wakeup, select.POLLIN)
        self._poll.register(lifeline, 0)  # POLLHUP is always reported
        self._ending = _Ending()
        self._signalled = False
        self._gpu_locks: tuple[GpuLock, ...] = ()  # held until this process ends

    def run(self) -> None:
        """Start the child, wait for its end and write `exit.json`."""
        self._look_for_stop_request()
        gpus = self._take_gpus()
        if gpus is None:
            self._record(exit_code=None)
            return
        started_at = time.time()
        try:
            child = self._start(gpus)
        except OSError as error:
            self._refuse(error, started_at)
            return
        rundir.write_document(
            self._directory / rundir.STARTED,
            Started(child, rundir.process_start_ticks(child) or 0, started_at, gpus),
        )
        status = self._wait_for_end(child)
        error_text = self._sweep()
        code = os.waitstatus_to_exitcode(status)
        self._record(
            exit_code=code if code >= 0 else 128 - code,
            signal_number=-code if code < 0 else None,
            started_at=started_at,
            error=error_text,
        )

    def _bound_output(self) -> None:
        # A disk that is full, or an output that somebody removed, is no reason to end a training.
        with contextlib.suppress(OSError):
            output.bound(self._directory / rundir.OUTPUT, self._spec.output_limit_bytes)

    def _start(self, gpus: tuple[str, ...]) -> int:
        environment = dict(self._spec.environment)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        with (self._directory / rundir.OUTPUT).open("ab") as log:
            return subprocess.Popen(
                self._spec.arguments,
                env=environment,
                cwd=self._spec.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_die_with(os.getpid()),  # safe: this process has one thread
            ).pid

    def _refuse(self, error: OSError, started_at: float) -> None:
        """Record a command that could not be started with the codes that a shell gives."""
        missing = isinstance(error, FileNotFoundError)
        text = f"{error.filename or self._spec.arguments[0]}: {error.strerror}"
        with (self._directory / rundir.OUTPUT).open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")
        self._record(
            exit_code=rundir.EXIT_NOT_FOUND if missing else rundir.EXIT_NOT_EXECUTABLE,
            started_at=started_at,
            error=text,
        )

    def _take_gpus(self) -> tuple[str, ...] | None:
        """Lock as many GPUs as asked for, waiting for them; None if asked to end meanwhile."""
        spec = self._spec
        while not self._must_end:
            taken = gpu_locks.take(spec.gpu_uuids, spec.gpu_count, spec.gpu_machine)
            if taken is not None:
                self._gpu_locks = taken
                return tuple(lock.uuid for lock in taken)
            (self._directory / rundir.WAITING).touch()
            self._wait(_GPU_RETRY_SECONDS)
        return None

    @property
    def _must_end(self) -> bool:
        return self._ending.stop is not None or self._ending.orphaned

    def _wait_for_end(self, child: int) -> int:
        """Return the wait status of `child`, after ending it if somebody asks for that."""
        descriptor = os.pidfd_open(child)
        self._poll.register(descriptor, select.POLLIN)
        while True:
            if _has_ended(child):
                # Before its pid is given back: afterwards the group might be a stranger's.
                _signal_group(child, signal.SIGKILL)
                return os.waitpid(child, 0)[1]
            now = time.monotonic()
            if self._must_end and not self._ending.terminate_sent:
                self._ending.terminate_sent = True
                _signal_group(child, signal.SIGTERM)
                self._ending.kill_at = now + self._grace_seconds
            if self._ending.orphaned:
                self._ending.kill_at = min(
                    self._ending.kill_at, now + self._spec.orphan_grace_seconds
                )
            if now >= self._ending.kill_at:
                self._ending.kill_at = math.inf
                _signal_group(child, signal.SIGKILL)
            self._bound_output()
            self._wait(min(self._ending.kill_at - now, _OUTPUT_CHECK_SECONDS))

    @property
    def _grace_seconds(self) -> float:
        stop = self._ending.stop
        return stop.grace_seconds if stop else self._spec.orphan_grace_seconds

    def _wait(self, timeout_seconds: float) -> None:
        """Sleep until a child ended, somebody asks for an end, or the time is over."""
        bounded = None if math.isinf(timeout_seconds) else max(0.0, timeout_seconds) * 1000 + 1
        for descriptor, _ in self._poll.poll(bounded):
            if descriptor == self._lifeline:
                self._poll.unregister(descriptor)
                self._ending.orphaned = True
            elif descriptor == self._wakeup:
                numbers = os.read(descriptor, 1024)
                if any(number != signal.SIGCHLD for number in numbers):
                    self._signalled = True
                    self._look_for_stop_request()
            else:
                self._poll.unregister(descriptor)  # the child ended: it stays readable

    def _look_for_stop_request(self) -> None:
        path = self._directory / rundir.STOP
        self._ending.stop = self._ending.stop or rundir.read_document(path, StopRequest)
        if self._ending.stop is None and self._signalled:
            # A signal without a request: the machine shuts down, or somebody ended the session.
            self._ending.stop = StopRequest("signalled", self._spec.orphan_grace_seconds)

    def _sweep(self) -> str:
        """End what the child left behind, as the end of a container does; returns what failed."""
        deadline = time.monotonic() + _SWEEP_SECONDS
        while True:
            left = rundir.children_of(os.getpid())
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _reap()
            if not left:
                return ""
            if time.monotonic() >= deadline:
                return f"processes {', '.join(map(str, left))} of the run can't be killed"
            self._wait(0.01)

    def _record(
        self,
        *,
        exit_code: int | None,
        signal_number: int | None = None,
        started_at: float | None = None,
        error: str = "",
    ) -> None:
        stop = self._ending.stop
        rundir.write_document(
            self._directory / rundir.EXIT,
            Exit(
                exit_code=exit_code,
                signal=signal_number,
                stopped=stop is not None,
                orphaned=self._ending.orphaned,
                reason=stop.reason if stop else "",
                error=error,
                started_at=started_at,
                ended_at=time.time(),
            ),
        )


def _die_with(parent: int) -> Callable[[], None]:
    """Return what runs between fork and exec: the kernel kills the child when `parent` dies."""
    library = ctypes.CDLL(None, use_errno=True)

    def in_child() -> None:
        if library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before the call above
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child


def _adopt_orphans() -> None:
    """Become the parent of what a child leaves behind, so that `_sweep` finds it."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _reap() -> None:
    """Collect every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _has_ended(child: int) -> bool:
    """Whether `child` has ended, which leaves it to be collected; collects what it orphaned."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid == child:
            return True
        os.waitpid(ended.si_pid, 0)
    return False


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def _catch_signals() -> int:
    """Turn signals into bytes on the returned descriptor.

    Handlers that do nothing rather than SIG_IGN: an ignored signal would stay ignored in the
    child, which then could not be stopped.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reader


def _read_spec(descriptor: int) -> ChildSpec:
    with os.fdopen(descriptor, "r", encoding="utf-8") as file:
        raw = json.load(file)
    raw["arguments"] = tuple(raw["arguments"])
    raw["gpu_uuids"] = tuple(raw["gpu_uuids"])
    return ChildSpec(**raw)


def _claim(directory: Path) -> bool:
    """Become the one shim of `directory`, or return False: another one is or was."""
    if rundir.try_lock(directory / rundir.LOCK) is None:
        return False
    claim = Claim(os.getpid(), rundir.process_start_ticks(os.getpid()) or 0, time.time())
    return rundir.create_json(directory / rundir.CLAIM, claim.__dict__)


def _starter_is_gone(lifeline: int) -> bool:
    watch = select.poll()
    watch.register(lifeline, 0)
    return bool(watch.poll(0))


def main(arguments: list[str]) -> int:
    """Run the shim; see the module's text for `arguments`."""
    directory = Path(arguments[0])
    lifeline, ready, spec_descriptor = (int(text) for text in arguments[1:])
    for descriptor in (lifeline, ready):
        os.set_inheritable(descriptor, False)
    wakeup = _catch_signals()
    spec = _read_spec(spec_descriptor)
    # Who has no starter left may not claim: the next program would have to wait for it.
    if _starter_is_gone(lifeline) or not _claim(directory):
        return 0
    os.write(ready, b"claimed")
    os.close(ready)
    _adopt_orphans()
    Shim(directory, spec, lifeline, wakeup).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
