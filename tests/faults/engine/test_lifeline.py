"""A child ends with the program that started it, however that one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import local_children as children
from tests.support.eventually import eventually
from zeus_operator.executors import rundir
from zeus_operator.executors.rundir import Started
from zeus_runtime.protocol import Outcome

REPOSITORY = Path(__file__).resolve().parents[3]
STARTER = """
import signal, sys
from pathlib import Path
from tests.support import local_children as children
home, script = Path(sys.argv[1]), sys.argv[2]
local = children.executor(home, orphan_grace_seconds=1.0)
local.start(children.job(home / "job", script), children.attempt())
print("started", flush=True)
signal.pause()
"""


def start(home: Path, script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(home), script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ("preparation", "exit_code"),
    [
        ("", 128 + signal.SIGTERM),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 128 + signal.SIGKILL),
    ],
    ids=["ends-when-asked", "ignores-sigterm"],
)
def test_killing_the_programs_process_group_ends_the_child(
    tmp_path: Path, number: signal.Signals, preparation: str, exit_code: int
) -> None:
    script = f"import signal\n{preparation}\nprint('ready', flush=True)\nsignal.pause()"
    process = start(tmp_path, script)
    attempt = children.attempt()
    directory = children.execution_directory(tmp_path, attempt).directory
    started = eventually(
        lambda: rundir.read_document(directory / rundir.STARTED, Started), "the child is started"
    )
    eventually(lambda: "ready" in (directory / rundir.OUTPUT).read_text(), "the child is ready")
    os.killpg(process.pid, number)
    process.wait()

    local = children.executor(tmp_path)
    job = children.job(tmp_path / "job", script)
    record = children.ended(local, job, attempt)
    assert (record.exit_code, record.outcome) == (exit_code, Outcome.PREEMPTED)
    assert rundir.process_start_ticks(started.pid) != started.start_ticks
    process.stdout.close()


def test_a_shim_whose_program_is_gone_before_it_claims_starts_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "1"
    directory.mkdir()
    lifeline_read, lifeline_write = os.pipe()
    ready_read, ready_write = os.pipe()
    os.close(lifeline_write)
    spec = os.open(tmp_path / "spec", os.O_RDWR | os.O_CREAT)
    os.write(
        spec,
        b'{"arguments": ["true"], "environment": {}, "folder": "/", "gpu_count": 0,'
        b' "gpu_uuids": [], "gpu_machine": "", "orphan_grace_seconds": 1,'
        b' "output_limit_bytes": 1}',
    )
    os.lseek(spec, 0, os.SEEK_SET)
    inherited = (lifeline_read, ready_write, spec)
    arguments = ["-P", "-m", "zeus_operator.executors.shim", str(directory), *map(str, inherited)]
    done = subprocess.run([sys.executable, *arguments], pass_fds=inherited, check=True)
    for descriptor in inherited:
        os.close(descriptor)
    assert done.returncode == 0
    assert os.read(ready_read, 1) == b""
    assert list(directory.iterdir()) == []
    os.close(ready_read)
