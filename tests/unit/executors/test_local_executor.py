"""The local executor with real children."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import local_children as children
from tests.support.eventually import eventually
from zeus_operator.executors import rundir
from zeus_operator.executors.base import ChildCollision
from zeus_operator.executors.local import LocalDevices, LocalExecutor, LocalExecutorError
from zeus_operator.executors.rundir import Claim, Started
from zeus_runtime.protocol import Outcome, Result, encode_result

WAIT_FOREVER = "import signal; print('ready', flush=True); signal.pause()"
WRITE_RESULT = f"""
import os
from zeus_runtime.protocol import encode_result, Result
with open(os.environ['ZEUS_RESULT_PATH'], 'wb') as file:
    file.write(encode_result(Result(job=os.environ['ZEUS_JOB'], attempt=1, epochs=3,
                                    outcome='{Outcome.REACHED.value}')))
"""


def claim(home: Path, attempt) -> Claim:
    directory = children.execution_directory(home, attempt).directory
    found = rundir.read_document(directory / rundir.CLAIM, Claim)
    assert found is not None
    return found


def child(home: Path, attempt) -> Started:
    path = children.execution_directory(home, attempt).directory / rundir.STARTED
    return eventually(lambda: rundir.read_document(path, Started), "the child is started")


def alive(pid: int, start_ticks: int) -> bool:
    return rundir.process_start_ticks(pid) == start_ticks


def test_a_child_runs_in_the_manifests_folder_with_this_python(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job = children.job(
        tmp_path / "job", "import os, sys; print(os.getcwd(), sys.executable, sys.argv[1])",
        args=["$(ZEUS_BATCH_SIZE)"],
    )  # fmt: skip
    attempt = children.attempt()
    local.start(job, attempt)
    record = children.ended(local, job, attempt)
    assert record.exit_code == 0
    assert record.outcome is None
    assert record.output_tail == f"{tmp_path / 'job'} {sys.executable} 64"
    assert Path(record.output_path).read_text().strip() == record.output_tail
    assert record.ended_at is not None
    assert record.started_at <= record.ended_at


def test_the_result_that_the_runtime_wrote_comes_back(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", WRITE_RESULT), children.attempt()
    local.start(job, attempt)
    record = children.ended(local, job, attempt)
    assert record.result is not None
    assert (record.result.job, record.result.epochs) == ("default/tiny", 3)


def test_a_script_that_fails_gives_its_exit_code_and_the_end_of_its_output(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    script = "for n in range(5000): print('line', n)\nraise SystemExit('no such dataset')"
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    local.start(job, attempt)
    record = children.ended(local, job, attempt)
    lines = record.output_tail.splitlines()
    assert record.exit_code == 1
    assert (lines[0], lines[-2:]) == ("line 4961", ["line 4999", "no such dataset"])
    assert len(lines) == 40


def test_a_signal_that_kills_the_child_is_told_as_a_shell_does(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    script = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    local.start(job, attempt)
    record = children.ended(local, job, attempt)
    assert record.exit_code == 128 + signal.SIGSEGV
    assert record.outcome is None


@pytest.mark.parametrize(
    ("program", "code", "text"),
    [
        ("python2.1", 127, "python2.1: No such file or directory"),
        ("./train.py", 126, "./train.py: Permission denied"),
    ],
)
def test_a_program_that_can_not_be_started_is_an_end_with_a_reason(
    tmp_path: Path, program: str, code: int, text: str
) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", command=[program]), children.attempt()
    local.start(job, attempt)
    record = children.ended(local, job, attempt)
    assert (record.exit_code, record.output_tail) == (code, text)


def test_starting_twice_gives_the_same_child(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", WAIT_FOREVER), children.attempt()
    first = local.start(job, attempt)
    started = child(tmp_path, attempt)
    assert local.start(job, attempt).uid == first.uid
    assert child(tmp_path, attempt) == started
    assert len(local.observe(job, attempt)) == 1
    local.stop(attempt, "test")
    children.ended(local, job, attempt)


def test_another_program_adopts_the_running_child_and_can_stop_it(tmp_path: Path) -> None:
    job, attempt = children.job(tmp_path / "job", WAIT_FOREVER), children.attempt()
    first, second = children.executor(tmp_path), children.executor(tmp_path)
    first.start(job, attempt)
    started = child(tmp_path, attempt)
    adopted = second.start(job, attempt)
    assert adopted.ended_at is None
    assert child(tmp_path, attempt) == started
    second.stop(attempt, "test")
    assert children.ended(second, job, attempt).outcome is Outcome.PREEMPTED
    first.close()


def test_an_end_that_was_not_written_down_is_not_run_again(tmp_path: Path) -> None:
    job, attempt = children.job(tmp_path / "job", WRITE_RESULT), children.attempt()
    first = children.executor(tmp_path)
    first.start(job, attempt)
    record = children.ended(first, job, attempt)
    assert children.executor(tmp_path).start(job, attempt) == record


def test_after_a_recorded_end_the_attempt_goes_on_in_a_new_execution(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", "print('once')"), children.attempt()
    local.start(job, attempt)
    first = children.ended(local, job, attempt)
    recorded = children.with_executions(attempt, first)
    assert local.start(job, recorded).uid != first.uid
    second = children.ended(local, job, recorded)
    assert local.observe(job, recorded) == (first, second)


def test_a_folder_of_another_attempt_is_a_collision(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", "print(1)"), children.attempt()
    local.start(job, attempt)
    children.ended(local, job, attempt)
    other = children.job(tmp_path / "job", "print(1)", uid="uid-2")
    with pytest.raises(ChildCollision, match="uid-1"):
        local.start(other, attempt)
    with pytest.raises(ChildCollision, match="not to attempt 2"):
        local.start(job, children.attempt(identifier=2))


def test_stopping_lets_the_script_end_itself(tmp_path: Path) -> None:
    script = """
import signal, sys
def end(*_):
    print('saved', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
signal.pause()
"""
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    local.stop(attempt, "interrupted")
    record = children.ended(local, job, attempt)
    assert (record.exit_code, record.outcome) == (0, Outcome.PREEMPTED)
    assert record.output_tail.endswith("saved")


def test_a_script_that_ignores_the_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    script = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT_FOREVER}"
    local = children.executor(tmp_path)
    job = children.job(tmp_path / "job", script, grace_seconds=1)
    attempt = children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    local.stop(attempt, "interrupted")
    record = children.ended(local, job, attempt)
    assert (record.exit_code, record.outcome) == (128 + signal.SIGKILL, Outcome.PREEMPTED)


@pytest.mark.parametrize(
    ("at_sigterm", "outcome"),
    [("sys.exit(0)", None), ("os.kill(os.getpid(), signal.SIGKILL)", Outcome.PREEMPTED)],
    ids=["saves-its-model", "is-cut-off"],
)
def test_a_run_that_has_reached_its_target_counts_if_it_could_finish(
    tmp_path: Path, at_sigterm: str, outcome: Outcome | None
) -> None:
    local = children.executor(tmp_path)
    script = f"""{WRITE_RESULT}
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: {at_sigterm})
{WAIT_FOREVER}
"""
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    local.stop(attempt, "interrupted")
    record = children.ended(local, job, attempt)
    assert record.outcome is outcome
    assert record.result is not None
    assert record.result.outcome == Outcome.REACHED


def test_what_the_script_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    script = """
import subprocess, sys
wait = "import signal; print('here', flush=True); signal.pause()"
for detached in (False, True):
    process = subprocess.Popen([sys.executable, '-c', wait], start_new_session=detached,
                               stdout=subprocess.PIPE)
    process.stdout.readline()
"""
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    local.start(job, attempt)
    assert children.ended(local, job, attempt).exit_code == 0
    result = str(children.execution_directory(tmp_path, attempt).result_path)
    assert rundir.processes_with_environment("ZEUS_RESULT_PATH", result) == ()


def test_a_killed_shim_takes_its_child_along_and_the_end_is_recorded(tmp_path: Path) -> None:
    script = f"""
import subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)
{WAIT_FOREVER}
"""
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    started = child(tmp_path, attempt)
    os.kill(claim(tmp_path, attempt).pid, signal.SIGKILL)
    record = children.ended(local, job, attempt)
    assert (record.exit_code, record.outcome) == (None, Outcome.PREEMPTED)
    assert not alive(started.pid, started.start_ticks)
    result = str(children.execution_directory(tmp_path, attempt).result_path)
    assert rundir.processes_with_environment("ZEUS_RESULT_PATH", result) == ()


def test_a_crash_before_the_shim_was_started_is_made_up_for(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", "print('run')"), children.attempt()
    children.execution_directory(tmp_path, attempt).directory.mkdir(parents=True)
    assert local.observe(job, attempt) == ()
    local.start(job, attempt)
    assert children.ended(local, job, attempt).output_tail == "run"


def test_a_shim_that_finds_the_execution_claimed_starts_nothing(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", "print('run')"), children.attempt()
    directory = children.execution_directory(tmp_path, attempt).directory
    directory.mkdir(parents=True)
    rundir.create_json(directory / rundir.CLAIM, Claim(1, 1, 0.0).__dict__)
    record = local.start(job, attempt)
    assert (record.exit_code, record.outcome) == (None, Outcome.PREEMPTED)
    assert not Path(record.output_path).exists()


def test_gpus_are_given_by_uuid_and_to_one_child_at_a_time(tmp_path: Path) -> None:
    script = f"import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); {WAIT_FOREVER}"
    local = children.executor(tmp_path, gpus=["GPU-a", "GPU-b"])
    job = children.job(tmp_path / "job", script, gpus=1)
    attempts = [children.attempt(identifier=n, child_name=f"tiny-{n}-1") for n in (1, 2, 3)]
    for attempt in attempts:
        local.start(job, attempt)
    got = [child(tmp_path, attempt).gpus for attempt in attempts[:2]]
    assert got == [("GPU-a",), ("GPU-b",)]
    children.output_has(children.last_execution(local, job, attempts[0]), "GPU-a")
    waiting = children.execution_directory(tmp_path, attempts[2]).directory / rundir.STARTED
    assert not waiting.exists()
    local.stop(attempts[1], "test")
    assert child(tmp_path, attempts[2]).gpus == ("GPU-b",)
    for attempt in attempts:
        local.stop(attempt, "test")
        children.ended(local, job, attempt)


def test_who_waits_for_a_gpu_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    local = children.executor(tmp_path, gpus=["GPU-a"], notify=said.append)
    job = children.job(tmp_path / "job", WAIT_FOREVER, gpus=1)
    first = children.attempt(identifier=1, child_name="tiny-1-1")
    second = children.attempt(identifier=2, child_name="tiny-2-1")
    local.start(job, first)
    child(tmp_path, first)
    local.start(job, second)
    eventually(lambda: local.observe(job, second) and said, "it says that it waits")
    local.observe(job, second)
    local.observe(job, first)
    assert said == ["tiny-2-1 waits for a GPU: other runs here use it"]
    local.close()


def test_programs_with_other_folders_share_the_machines_gpus(tmp_path: Path) -> None:
    gpu = f"GPU-{uuid.uuid4()}"
    locals_ = [
        LocalExecutor(tmp_path / name / "runs", LocalDevices((gpu,)), children.decision)
        for name in ("one", "two")
    ]
    job = children.job(tmp_path / "job", WAIT_FOREVER, gpus=1)
    attempt = children.attempt()
    locals_[0].start(job, attempt)
    assert child(tmp_path / "one", attempt).gpus == (gpu,)
    locals_[1].start(job, attempt)
    waiting = children.execution_directory(tmp_path / "two", attempt)
    eventually(lambda: waiting.waits_for_gpus, "the second waits")
    locals_[0].close()
    assert child(tmp_path / "two", attempt).gpus == (gpu,)
    locals_[1].close()


def test_simulated_gpus_of_two_machines_are_not_the_same(tmp_path: Path) -> None:
    job = children.job(tmp_path / "job", WAIT_FOREVER, gpus=1)
    attempt = children.attempt()
    running = []
    for name in ("one", "two"):
        home = tmp_path / name
        local = children.executor(home, gpus=["GPU-a"])
        local.start(job, attempt)
        assert child(home, attempt).gpus == ("GPU-a",)
        running.append(local)
    for local in running:
        local.close()


def test_who_asks_a_script_to_end_says_how_long_it_has(tmp_path: Path) -> None:
    said: list[str] = []
    local = children.executor(tmp_path, notify=said.append)
    job = children.job(tmp_path / "job", WAIT_FOREVER, grace_seconds=7)
    attempt = children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    local.stop(attempt, "interrupted")
    children.ended(local, job, attempt)
    local.stop(attempt, "interrupted")
    assert said == ["interrupted: the script is asked to end, and killed if it has not within 7 s"]


def test_letting_go_need_not_wait_for_a_script_that_ignores_the_signal(tmp_path: Path) -> None:
    script = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT_FOREVER}"
    local = children.executor(tmp_path, orphan_grace_seconds=1.0)
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    started = child(tmp_path, attempt)
    local.close(wait=False)
    assert alive(started.pid, started.start_ticks)
    assert children.ended(local, job, attempt).outcome is Outcome.PREEMPTED
    assert not alive(started.pid, started.start_ticks)


def test_a_child_that_waits_for_a_gpu_can_be_stopped(tmp_path: Path) -> None:
    local = children.executor(tmp_path, gpus=["GPU-a"])
    job = children.job(tmp_path / "job", WAIT_FOREVER, gpus=1)
    first = children.attempt(identifier=1, child_name="tiny-1-1")
    second = children.attempt(identifier=2, child_name="tiny-2-1")
    local.start(job, first)
    child(tmp_path, first)
    local.start(job, second)
    local.stop(second, "test")
    record = children.ended(local, job, second)
    assert (record.exit_code, record.outcome) == (None, Outcome.PREEMPTED)
    local.stop(first, "test")
    children.ended(local, job, first)


def test_a_child_that_asks_for_no_gpu_sees_none(tmp_path: Path) -> None:
    local = children.executor(tmp_path, gpus=["GPU-a"])
    script = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    local.start(job, attempt)
    assert children.ended(local, job, attempt).output_tail == "''"


def test_more_gpus_than_there_are_is_said_at_once(tmp_path: Path) -> None:
    local = children.executor(tmp_path, gpus=["GPU-a"])
    job = children.job(tmp_path / "job", "", gpus=2)
    with pytest.raises(LocalExecutorError, match="asks for 2 GPUs, this machine has 1"):
        local.check(job)
    with pytest.raises(LocalExecutorError, match=r"lower its limit of nvidia\.com/gpu"):
        local.start(job, children.attempt())


def test_a_folder_that_can_not_be_written_is_one_sentence_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    local, job = children.executor(tmp_path), children.job(tmp_path / "job")
    with pytest.raises(LocalExecutorError, match=r"no child could be started: .*/runs.*: \w+"):
        local.start(job, children.attempt())


def test_pruning_keeps_the_output_alone(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = (
        children.job(tmp_path / "job", WRITE_RESULT + "print('kept')"),
        children.attempt(),
    )
    local.start(job, attempt)
    record = children.ended(local, job, attempt)
    local.prune(attempt)
    directory = Path(record.output_path).parent
    assert [path.name for path in directory.iterdir()] == [rundir.OUTPUT]
    local.prune(attempt)


def test_the_first_reason_to_stop_is_kept(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", WAIT_FOREVER), children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    local.stop(attempt, "first")
    local.stop(attempt, "second")
    children.ended(local, job, attempt)
    path = children.execution_directory(tmp_path, attempt).directory / rundir.EXIT
    found = rundir.read_json(path)
    assert found is not None
    assert (found["stopped"], found["reason"]) == (True, "first")


def test_a_result_of_an_earlier_write_is_seen_while_the_child_runs(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", WAIT_FOREVER), children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    execution = children.execution_directory(tmp_path, attempt)
    execution.result_path.write_bytes(encode_result(Result(epochs=2)))
    record = children.last_execution(local, job, attempt)
    assert record.result is not None
    assert (record.result.epochs, record.ended_at) == (2, None)
    local.stop(attempt, "test")
    children.ended(local, job, attempt)


def test_an_execution_whose_files_are_gone_is_lost(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job, attempt = children.job(tmp_path / "job", "print(1)"), children.attempt()
    running = replace(local.start(job, attempt), ended_at=None)
    children.ended(local, job, attempt)
    shutil.rmtree(tmp_path / "runs" / attempt.child_name)
    record = children.last_execution(local, job, children.with_executions(attempt, running))
    assert record.outcome is Outcome.LOST
    assert record.ended_at is not None
