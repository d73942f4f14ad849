"""The output of a script on disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import local_children as children
from tests.support.eventually import eventually
from zeus_operator.executors import rundir
from zeus_operator.executors.output import TAIL_BYTES, TAIL_LINES, bound, earlier, tail
from zeus_operator.executors.rundir import Claim


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "output.log"


def test_an_output_within_its_limit_is_left_alone(log: Path) -> None:
    log.write_text("12345")
    assert not bound(log, 5)
    assert log.read_text() == "12345"
    assert not earlier(log).exists()


def test_a_longer_one_moves_and_its_writer_goes_on_at_the_start(log: Path) -> None:
    with log.open("a") as writer:
        writer.write("first\n")
        writer.flush()
        assert bound(log, 5)
        writer.write("second\n")
    assert (earlier(log).read_text(), log.read_text()) == ("irst\n", "second\n")


def test_the_one_moved_last_is_the_one_that_is_kept(log: Path) -> None:
    for text in ("one", "two", "three"):
        log.write_text(text)
        assert bound(log, 2)
    assert [path.name for path in sorted(log.parent.iterdir())] == ["output.log", "output.log.1"]
    assert earlier(log).read_text() == "ee"


def test_the_tail_goes_on_into_what_was_moved(log: Path) -> None:
    earlier(log).write_text("an error\nthat began")
    log.write_text(" before\nand went on\n")
    assert tail(log) == "an error\nthat began before\nand went on"


def test_the_tail_has_whole_lines_and_not_too_many(log: Path) -> None:
    log.write_text("".join(f"{number:0100}\n" for number in range(200)))
    lines = tail(log).splitlines()
    assert len(lines) == TAIL_BYTES // 101
    assert [int(line) for line in lines] == list(range(160, 200))
    log.write_text("x\n" * 1000)
    assert len(tail(log).splitlines()) == TAIL_LINES


def test_one_line_that_is_too_long_is_cut_and_nothing_is_nothing(log: Path) -> None:
    assert tail(log) == ""
    log.write_text("x" * 10_000)
    assert tail(log) == "x" * TAIL_BYTES


def test_the_output_of_a_script_that_prints_on_and_on_is_bounded(tmp_path: Path) -> None:
    script = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: None)
print('x' * 5000, flush=True)
signal.pause()
print('the end', flush=True)
"""
    local = children.executor(tmp_path, output_limit_bytes=1000)
    job, attempt = children.job(tmp_path / "job", script), children.attempt()
    record = local.start(job, attempt)
    output = Path(record.output_path)
    eventually(lambda: output.exists() and output.stat().st_size > 5000, "it has printed")
    claim = rundir.read_document(output.parent / rundir.CLAIM, Claim)
    started = rundir.read_document(output.parent / rundir.STARTED, rundir.Started)
    assert claim is not None
    assert started is not None
    os.kill(claim.pid, signal.SIGCHLD)  # the shim looks now and not seconds later
    eventually(lambda: earlier(output).exists() and output.stat().st_size == 0, "it has moved")
    os.kill(started.pid, signal.SIGUSR1)
    assert children.ended(local, job, attempt).output_tail.endswith("x\nthe end")
    local.prune(attempt)
    names = sorted(path.name for path in output.parent.iterdir())
    assert names == ["output.log", "output.log.1"]
