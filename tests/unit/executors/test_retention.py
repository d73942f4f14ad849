"""Removing the runs of a job."""

from __future__ import annotations

from pathlib import Path

from tests.support import local_children as children
from zeus_operator.executors.retention import remove_runs


def test_the_runs_of_one_job_are_removed_and_those_of_others_kept(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    for uid, name in (("uid-1", "tiny-1-1"), ("uid-1", "tiny-2-1"), ("uid-2", "other-1-1")):
        job = children.job(tmp_path / "job", "print(1)", uid=uid)
        attempt = children.attempt(child_name=name)
        local.start(job, attempt)
        children.ended(local, job, attempt)
    assert remove_runs(tmp_path / "runs", "uid-1") == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other-1-1"]


def test_a_run_that_goes_on_is_kept(tmp_path: Path) -> None:
    local = children.executor(tmp_path)
    job = children.job(
        tmp_path / "job", "import signal; print('ready', flush=True); signal.pause()"
    )
    attempt = children.attempt()
    children.output_has(local.start(job, attempt), "ready")
    assert remove_runs(tmp_path / "runs", job.uid) == 0
    local.stop(attempt, "test")
    children.ended(local, job, attempt)
    assert remove_runs(tmp_path / "runs", job.uid) == 1


def test_without_any_run_there_is_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_runs(tmp_path / "runs", "uid-1") == 0
