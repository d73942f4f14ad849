"""Attempts as processes on this machine, each behind a shim that sees to its end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from zeus_operator.api.template import TrainingContainer, training_container
from zeus_operator.api.types import ZeusJobSpec
from zeus_operator.executors import rundir
from zeus_operator.executors.base import ChildCollision
from zeus_operator.executors.checkpoints import Checkpoint, CheckpointHook, no_checkpoint
from zeus_operator.executors.command import command, injected_environment
from zeus_operator.executors.execution import Execution, Phase
from zeus_operator.executors.output import earlier
from zeus_operator.executors.shim import ChildSpec
from zeus_operator.records import AttemptRecord, ExecutionRecord, JobRecord
from zeus_runtime.protocol import Decision, Outcome

_CLAIM_TRIES = 3
_CLAIM_SECONDS = 30.0
OUTPUT_LIMIT_BYTES = 32 << 20


class LocalExecutorError(Exception):
    """A child can't be started here; the text says what to change."""


@dataclass(frozen=True)
class LocalDevices:
    """The GPUs that children may use.

    Args:
        uuids: as NVML gives them.
        environment: variables that make them visible to a child (of a simulated driver).
        machine: whose they are; "" for this machine's own, see `gpu_locks`.
    """

    uuids: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    machine: str = ""


class LocalExecutor:
    """Implements `executors.base.Executor` with processes.

    Args:
        runs: folder of all executions; see `rundir`.
        devices: the GPUs.
        decision_of: builds what a run is told.
        agent_address: of the agent that sets power limits; None: there is none.
        inherited: environment that children start from.
        orphan_grace_seconds: what a child has to end itself once this process is gone.
        output_limit_bytes: so much of a script's output is kept in `output.log`, and as much of
            what was before in `output.log.1`.
        notify: takes one sentence for people about what is waited for.
        checkpoint: called between two effects.
    """

    def __init__(
        self,
        runs: Path,
        devices: LocalDevices,
        decision_of: Callable[[JobRecord, AttemptRecord], Decision],
        *,
        agent_address: str | None = None,
        inherited: Mapping[str, str] = os.environ,
        orphan_grace_seconds: float = 5.0,
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
        notify: Callable[[str], object] = lambda _: None,
        checkpoint: CheckpointHook = no_checkpoint,
    ) -> None:
        self._runs = runs
        self._devices = devices
        self._decision_of = decision_of
        self._agent_address = agent_address
        self._inherited = {**inherited, **(devices.environment or {})}
        self._orphan_grace_seconds = orphan_grace_seconds
        self._output_limit_bytes = output_limit_bytes
        self._notify = notify
        self._checkpoint = checkpoint
        self._shims: dict[str, _Shim] = {}
        self._told_waiting: set[str] = set()

    def check(self, job: JobRecord) -> TrainingContainer:
        """Return the container of `job` if this machine can run it.

        Raises:
            LocalExecutorError: there are fewer GPUs than it asks for.
        """
        container = training_container(ZeusJobSpec.model_validate(job.spec))
        available = len(self._devices.uuids)
        if available and container.gpu_count > available:
            raise LocalExecutorError(
                f"{job.key}: the container asks for {container.gpu_count} GPUs, this machine has "
                f"{available}; lower its limit of nvidia.com/gpu"
            )
        return container

    def start(self, job: JobRecord, attempt: AttemptRecord) -> ExecutionRecord:
        """Start the next execution of `attempt`, or adopt the one that an earlier call started.

        An execution that ended but is not in `attempt.executions` as ended is returned as it
        is: the attempt had its run, and the program died before it could write that down.

        Raises:
            ChildCollision: the directory belongs to another attempt.
            LocalExecutorError: the shim does not start, its files can't be written, or there are
                fewer GPUs than asked for.
        """
        container = self.check(job)
        try:
            return self._start(job, attempt, container)
        except OSError as error:
            raise LocalExecutorError(
                f"no child could be started: {error.filename or self._runs}: {error.strerror}"
            ) from error

    def _start(
        self, job: JobRecord, attempt: AttemptRecord, container: TrainingContainer
    ) -> ExecutionRecord:
        folder = self._runs / attempt.child_name
        self._own(folder, job, attempt, container.termination_grace_period_seconds)
        self._checkpoint(Checkpoint.CHILD_OWNER_WRITTEN)
        execution = self._next(folder, attempt)
        execution.directory.mkdir(mode=0o700, exist_ok=True)
        self._checkpoint(Checkpoint.CHILD_DIRECTORY_MADE)
        for _ in range(_CLAIM_TRIES):
            if execution.phase() is not Phase.UNCLAIMED:
                return execution.record()
            made = command(
                container,
                injected_environment(
                    job,
                    attempt,
                    self._decision_of(job, attempt),
                    result_path=execution.result_path,
                    agent_address=self._agent_address,
                ),
                self._inherited,
            )
            self._spawn(
                execution,
                ChildSpec(
                    arguments=made.arguments,
                    environment=made.environment,
                    folder=str(Path(job.manifest_path).parent),
                    gpu_count=min(container.gpu_count, len(self._devices.uuids)),
                    gpu_uuids=self._devices.uuids,
                    gpu_machine=self._devices.machine,
                    orphan_grace_seconds=self._orphan_grace_seconds,
                    output_limit_bytes=self._output_limit_bytes,
                ),
            )
        if execution.phase() is Phase.UNCLAIMED:
            raise LocalExecutorError(f"no child could be started: {execution.shim_output()}")
        return execution.record()

    def observe(self, job: JobRecord, attempt: AttemptRecord) -> tuple[ExecutionRecord, ...]:
        """Return every execution; those that the store knows to have ended as it has them.

        One that the store knows to run and that has no files any more is `LOST`.
        """
        del job
        stored = {record.uid: record for record in attempt.executions}
        found = {uid: record for uid, record in stored.items() if record.ended_at is not None}
        for execution in self._executions(self._runs / attempt.child_name):
            if execution.uid in found or execution.phase() is Phase.UNCLAIMED:
                continue
            record = execution.record()
            if record.ended_at is not None:
                self._forget(execution.uid)
            elif execution.uid not in self._told_waiting and execution.waits_for_gpus:
                self._told_waiting.add(execution.uid)
                self._notify(f"{attempt.child_name} waits for a GPU: other runs here use it")
            found[execution.uid] = record
        for uid in stored.keys() - found.keys():
            found[uid] = replace(stored[uid], ended_at=datetime.now(UTC), outcome=Outcome.LOST)
        return tuple(sorted(found.values(), key=lambda record: record.started_at))

    def stop(self, attempt: AttemptRecord, reason: str) -> None:
        """Ask the child to end: SIGTERM, the pod's grace period, SIGKILL, all by the shim.

        Returns at once; `observe` tells when it has ended.
        """
        folder = self._runs / attempt.child_name
        owner = rundir.read_json(folder / rundir.OWNER) or {}
        grace_seconds = float(owner.get("grace_seconds", 30.0))
        for execution in self._executions(folder):
            if execution.request_stop(reason, grace_seconds):
                self._notify(
                    f"{reason}: the script is asked to end, and killed if it has not within "
                    f"{grace_seconds:g} s"
                )

    def prune(self, attempt: AttemptRecord) -> None:
        """Remove the files of an ended attempt but its output and its owner."""
        for execution in self._executions(self._runs / attempt.child_name):
            self._forget(execution.uid)
            output = execution.directory / rundir.OUTPUT
            kept = {output, earlier(output)}
            for path in execution.directory.iterdir():
                if path not in kept:
                    path.unlink(missing_ok=True)

    def wait(self, timeout_seconds: float) -> None:
        """Sleep until a child that this process started has ended, or for `timeout_seconds`."""
        poll = select.poll()
        for shim in self._shims.values():
            poll.register(shim.pidfd, select.POLLIN)
        poll.poll(max(0.0, timeout_seconds) * 1000)

    def close(self, *, wait: bool = True) -> None:
        """Let go of the children: their shims end those that still run.

        Args:
            wait: for their ends; they come anyway, `orphan_grace_seconds` later at most.
        """
        for shim in self._shims.values():
            shim.let_go()
        while self._shims:
            self._shims.popitem()[1].close(wait=wait)

    def _own(self, folder: Path, job: JobRecord, attempt: AttemptRecord, grace: float) -> None:
        """Make the child's folder ours, once."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = {"job_uid": job.uid, "attempt_id": attempt.id}
        created = rundir.create_json(folder / rundir.OWNER, {**mine, "grace_seconds": grace})
        found = mine if created else rundir.read_json(folder / rundir.OWNER) or {}
        if {name: found.get(name) for name in mine} != mine:
            raise ChildCollision(
                f"{folder} belongs to attempt {found.get('attempt_id')} of the job with uid "
                f"{found.get('job_uid')}, not to attempt {attempt.id} of {job.key} "
                f"(uid {job.uid}); move it away if that job is gone"
            )

    def _next(self, folder: Path, attempt: AttemptRecord) -> Execution:
        ended = {record.uid for record in attempt.executions if record.ended_at}
        number = 1
        while (execution := Execution(folder / str(number))).uid in ended:
            number += 1
        return execution

    def _executions(self, folder: Path) -> tuple[Execution, ...]:
        if not folder.is_dir():
            return ()
        numbers = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        return tuple(Execution(folder / str(number)) for number in numbers)

    def _spawn(self, execution: Execution, spec: ChildSpec) -> None:
        """Start a shim and wait until it has claimed the execution or ended."""
        lifeline_read, lifeline_write = os.pipe()
        ready_read, ready_write = os.pipe()
        inherited = (lifeline_read, ready_write, _as_file(spec))
        try:
            with execution.shim_log_path.open("ab") as log:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",  # the manifest's folder may hold a `signal.py`
                        "-m",
                        "zeus_operator.executors.shim",
                        str(execution.directory),
                        *map(str, inherited),
                    ],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError:
            os.close(lifeline_write)
            os.close(ready_read)
            raise
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        shim = _Shim(process, lifeline_write, os.pidfd_open(process.pid))
        self._checkpoint(Checkpoint.CHILD_SHIM_SPAWNED)
        if _says_ready(ready_read):
            self._shims[execution.uid] = shim
            self._checkpoint(Checkpoint.CHILD_CLAIMED)
        else:
            shim.close()

    def _forget(self, uid: str) -> None:
        shim = self._shims.pop(uid, None)
        if shim is not None:
            shim.close()


@dataclass
class _Shim:
    """A shim that this process started.

    Args:
        lifeline: write end of its pipe; nobody else may hold it.  None once it is cut.
    """

    process: subprocess.Popen[bytes]
    lifeline: int | None
    pidfd: int

    def let_go(self) -> None:
        """Cut the lifeline: the shim ends its child if that still runs."""
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def close(self, *, wait: bool = True) -> None:
        """Cut the lifeline and collect the shim once it has ended its child."""
        self.let_go()
        if wait:
            self.process.wait()
        os.close(self.pidfd)


def _as_file(spec: ChildSpec) -> int:
    """Return a descriptor of `spec` in memory: an environment holds secrets, a disk keeps them."""
    descriptor = os.memfd_create("zeus-child")
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
        json.dump(asdict(spec), file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _says_ready(descriptor: int) -> bool:
    """Wait for the shim's word; False if it ended without, or says nothing for too long."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(_CLAIM_SECONDS * 1000)) and bool(os.read(descriptor, 16))
    finally:
        os.close(descriptor)
