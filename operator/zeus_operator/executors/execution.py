"""What the directory of one execution says, and healing where its shim was killed."""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

from zeus_operator.executors import rundir
from zeus_operator.executors.output import tail
from zeus_operator.executors.rundir import Claim, Exit, Started, StopRequest
from zeus_operator.records import ExecutionRecord
from zeus_runtime.protocol import ENV_RESULT_PATH, Outcome, Result, decode_result

_KILL_SECONDS = 10.0


class Phase(enum.Enum):
    """Where an execution stands."""

    UNCLAIMED = "unclaimed"  # a directory at most: no shim ever ran here
    LIVE = "live"
    ENDED = "ended"


class Execution:
    """One execution of an attempt: `<runs>/<child name>/<number>`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.uid = f"{directory.parent.name}.{directory.name}"
        self.result_path = directory / rundir.RESULT
        self.shim_log_path = directory / "shim.log"

    def phase(self) -> Phase:
        """Return where the execution stands, after healing it if its shim was killed."""
        if (self.directory / rundir.EXIT).exists():
            return Phase.ENDED
        if not self.directory.is_dir():
            return Phase.UNCLAIMED
        with rundir.locked_if_free(self.directory / rundir.LOCK) as free:
            if not free:
                return Phase.LIVE
            # Nobody can write here now.  A shim that ended just before did write its record.
            if (self.directory / rundir.EXIT).exists():
                return Phase.ENDED
            if not (self.directory / rundir.CLAIM).exists():
                return Phase.UNCLAIMED
            self._heal()
            return Phase.ENDED

    def record(self) -> ExecutionRecord:
        """Return what is known of a claimed execution."""
        ended = rundir.read_document(self.directory / rundir.EXIT, Exit)
        result = self._result()
        return ExecutionRecord(
            uid=self.uid,
            started_at=self._started_at(ended),
            ended_at=_time(ended.ended_at) if ended else None,
            exit_code=ended.exit_code if ended else None,
            outcome=_outcome(ended, result) if ended else None,
            result=result,
            output_path=str(self.directory / rundir.OUTPUT),
            output_tail=tail(self.directory / rundir.OUTPUT) if ended else "",
        )

    @property
    def waits_for_gpus(self) -> bool:
        """Whether the child is not started yet because its GPUs are in use."""
        is_waiting = (self.directory / rundir.WAITING).exists()
        return is_waiting and not (self.directory / rundir.STARTED).exists()

    def request_stop(self, reason: str, grace_seconds: float) -> bool:
        """Tell the shim to end its child; the first reason given is the one that counts.

        Returns:
            Whether there is something to end.
        """
        if self.phase() is not Phase.LIVE:
            return False
        request = StopRequest(reason, grace_seconds)
        rundir.create_json(self.directory / rundir.STOP, request.__dict__)
        claim = rundir.read_document(self.directory / rundir.CLAIM, Claim)
        # Without a claim yet, the shim finds the request when it starts.
        descriptor = rundir.open_process(claim.pid, claim.start_ticks) if claim else None
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            os.close(descriptor)
        return True

    def shim_output(self) -> str:
        """Return what the shim said; it says something only if it fails."""
        return tail(self.shim_log_path) or "its shim ended without a word"

    def _result(self) -> Result | None:
        try:
            return decode_result(self.result_path.read_bytes())
        except FileNotFoundError:
            return None

    def _started_at(self, ended: Exit | None) -> datetime:
        if ended is not None and ended.started_at is not None:
            return _time(ended.started_at)
        started = rundir.read_document(self.directory / rundir.STARTED, Started)
        if started is not None:
            return _time(started.started_at)
        claim = rundir.read_document(self.directory / rundir.CLAIM, Claim)
        return _time(claim.claimed_at if claim else self.directory.stat().st_mtime)

    def _heal(self) -> None:
        """Write the end that a killed shim could not, once nothing of its child is left.

        The kernel kills the child with the shim, but not what the child had started; all of
        it is found by the path of the result that only this execution has.
        """
        deadline = time.monotonic() + _KILL_SECONDS
        while left := rundir.processes_with_environment(ENV_RESULT_PATH, str(self.result_path)):
            for pid in left:
                self._kill(pid, max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                break
        started = rundir.read_document(self.directory / rundir.STARTED, Started)
        rundir.write_document(
            self.directory / rundir.EXIT,
            Exit(
                exit_code=None,
                orphaned=True,
                error="the process that watched it was killed"
                + (f"; processes {', '.join(map(str, left))} can't be killed" if left else ""),
                started_at=started.started_at if started else None,
                ended_at=time.time(),
            ),
        )

    def _kill(self, pid: int, timeout_seconds: float) -> None:
        """Kill `pid` and wait for its end, if it is of this execution."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # Looked up again now that the pid can't be given to a stranger unnoticed.
            if rundir.has_environment(pid, ENV_RESULT_PATH, str(self.result_path)):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(timeout_seconds * 1000)
        finally:
            os.close(descriptor)


def _outcome(ended: Exit, result: Result | None) -> Outcome | None:
    """Return what the executor knows better than the result: that the end came from outside.

    A script that was told to end and finished well all the same has the last word itself.
    """
    finished = ended.exit_code == 0 and result is not None and result.outcome is not None
    return Outcome.PREEMPTED if (ended.stopped or ended.orphaned) and not finished else None


def _time(epoch_seconds: float) -> datetime:
    return datetime.fromtimestamp(epoch_seconds, UTC)
