"""Job groups replayed in time, counted by hand."""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from tests.support.tiny_traces import Scripted, workload, write_groups_file
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.simulate.group_summary import summarize_groups
from zeus_operator.simulate.groups import GroupRun, JobGroup, load_groups, write_groups
from zeus_operator.simulate.replay import GroupTask, replay_group
from zeus_operator.simulate.rows import TraceError
from zeus_operator.simulate.single_job import simulate_job
from zeus_operator.simulate.study import Effort, compare_groups
from zeus_runtime.protocol import Outcome


def group(*runs: tuple[float, float, float], name: str = "g") -> JobGroup:
    return JobGroup(name, "toy", tuple(GroupRun(*run) for run in runs))


APART = group((0, 5, 1.0), (5, 9, 1.0), (20, 30, 1.0))


def test_runs_apart_from_each_other_cost_what_the_single_job_costs() -> None:
    script = Scripted((64, None))

    found = replay_group(workload(), script, APART, seed=0)

    alone = simulate_job(workload(), Scripted((64, None)), recurrences=3, seed=0)
    assert found.cost_joules == sum(alone.cost_joules) == 44.0 + 40.0 + 40.0
    assert found.energy_joules == 22.0 + 20.0 + 20.0
    assert (found.attempts, found.failed) == (3, 0)
    assert [s.in_flight for s in script.situations] == [(), (), ()]
    assert [s.recurrence for s in script.situations] == [1, 2, 3]
    assert APART.overlapping_runs == 0  # to start when another ends is not to overlap


def test_a_run_that_starts_before_another_ended_is_decided_without_its_result() -> None:
    script = Scripted((64, None), (32, None), (64, None), (64, None))
    overlapping = group((0, 10, 1.0), (2, 4, 1.0), (5, 20, 1.0), (10, 12, 1.0))

    found = replay_group(workload(), script, overlapping, seed=0)

    assert [s.in_flight for s in script.situations] == [(), (64,), (64,), (64,)]
    # The first run of 64 ends at 10, which is when the fourth starts: that one knows its limits.
    assert found.cost_joules == 44.0 + 39.0 + 44.0 + 40.0
    assert [o.recurrence for o in script.observations] == [2, 1, 4, 3]
    assert [o.attempt_id for o in script.observations] == [1, 2, 3, 4]
    assert overlapping.overlapping_runs == 3


def test_sums_are_weighed_by_the_runtime_ratio_and_the_policy_sees_the_recorded_cost() -> None:
    script = Scripted((64, None))

    found = replay_group(workload(), script, group((0, 5, 2.0), (6, 9, 0.5)), seed=0)

    assert found.cost_joules == 2.0 * 44.0 + 0.5 * 40.0
    assert found.time_seconds == pytest.approx(2.0 * 4.4 + 0.5 * 4.0)
    assert [o.cost_joules for o in script.observations] == [44.0, 40.0]


def test_a_failed_run_is_tried_again_when_it_ends_and_takes_as_long_again() -> None:
    script = Scripted((64, 39.0), (64, None), (32, None), (32, None))
    rows = group((0, 10, 1.0), (15, 16, 1.0), (20, 21, 1.0))

    found = replay_group(workload(), script, rows, seed=0)

    first, retry, second, third = script.situations
    assert (retry.recurrence, retry.failed, retry.attempt) == (1, (64,), 2)
    assert second.in_flight == (64,)  # the retry runs from 10 to 20
    assert third.in_flight == ()  # and has ended when the third starts
    assert [(o.recurrence, o.attempt) for o in script.observations] == [
        (1, 1),
        (2, 1),
        (1, 2),
        (3, 1),
    ]
    assert script.observations[0].outcome is Outcome.COST_EXCEEDED
    assert found.cost_joules == (14.0 + 20.0) + 40.0 + 39.0 + 36.0
    assert first.failed == ()


def test_an_attempt_that_no_epoch_was_paid_for_takes_no_time() -> None:
    script = Scripted((64, 9.0), (32, None), (64, None))

    found = replay_group(workload(), script, group((0, 10, 1.0), (10, 12, 1.0)), seed=0)

    assert [s.failed for s in script.situations] == [(), (64,), ()]
    assert [s.in_flight for s in script.situations] == [(), (), ()]
    assert (found.attempts, found.cost_joules) == (3, 39.0 + 44.0)
    assert [(o.attempt_id, o.batch_size, o.epochs) for o in script.observations] == [
        (1, 64, 0),
        (2, 32, 3),
        (3, 64, 4),
    ]


def test_a_run_out_of_attempts_ends_without_a_model() -> None:
    found = replay_group(
        workload(), Scripted((64, 9.0), (64, 39.0)), group((0, 1, 1.0)), seed=0, attempts=3
    )

    assert (found.attempts, found.failed) == (3, 1)
    assert found.cost_joules == (14.0 + 20.0) + (10.0 + 20.0)


def test_a_run_without_duration_ends_before_the_next_one_starts() -> None:
    script = Scripted((64, None))

    replay_group(workload(), script, group((3, 3, 1.0), (3, 3, 1.0)), seed=0)

    assert [s.in_flight for s in script.situations] == [(), ()]


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_replay_is_a_function_of_seed_and_group(name: str) -> None:
    noisy = workload(epochs=(2.0, 4.0, 5.0, 9.0), small_epochs=(1.0, 3.0, 8.0))
    rows = tuple((float(i), i + 1.5, 1.0) for i in range(30))
    first, other = group(*rows), group(*rows, name="h")

    found = GroupTask(noisy, policy(name), first, 1).run()

    assert GroupTask(noisy, policy(name), first, 1).run() == found
    assert GroupTask(noisy, policy(name), first, 2).run() != found
    assert GroupTask(noisy, policy(name), other, 1).run() != found


def test_the_summary_of_groups_sets_their_sums_against_the_default() -> None:
    ratios = group((0, 5, 2.0), (6, 9, 0.5))
    twin = replace(ratios, name="h")
    history = replay_group(workload(), Scripted((64, None)), ratios, seed=0)

    found = summarize_groups(workload(), "scripted", [ratios, twin], [[history, history]] * 3)

    assert (found.groups, found.runs, found.overlapping_runs, found.seeds) == (2, 4, 0, 3)
    assert found.cost_mean == 2 * (2.0 * 44.0 + 0.5 * 40.0)
    assert found.cost_default == 2 * 2.5 * 64.0  # 4 epochs of 16 J at full power
    assert found.energy_joules_default == 2 * 2.5 * 32.0
    assert found.time_seconds_default == pytest.approx(2 * 2.5 * 6.4)
    assert (found.attempts_mean, found.failed_mean, found.worse_than_default) == (4.0, 0.0, 0.0)
    assert found.arrivals == "recorded"
    with pytest.raises(ValueError, match="at least one group"):
        summarize_groups(workload(), "scripted", [], [])


def test_the_sums_of_a_seed_are_over_all_groups_of_the_workload() -> None:
    noisy = workload(epochs=(2.0, 5.0, 9.0), small_epochs=(1.0, 3.0, 8.0))
    groups = [
        group(*((float(i), i + 1.5, 1.0) for i in range(runs)), name=f"g{runs}")
        for runs in (1, 2, 9)
    ]
    groups.append(replace(groups[0], name="d", dataset="other"))
    seen: list[tuple[int, int]] = []

    (found,) = compare_groups(
        [noisy], [policy("zeus")], groups, Effort(seeds=12), lambda *done: seen.append(done)
    )

    costs = [
        sum(replay_group(noisy, policy("zeus"), g, seed).cost_joules for g in groups[:3])
        for seed in range(12)
    ]
    assert found.cost_mean == pytest.approx(fmean(costs))
    assert found.worse_than_default == sum(cost > found.cost_default for cost in costs) / 12
    assert 0.0 < found.worse_than_default < 1.0
    assert (found.groups, found.runs) == (3, 12)
    assert seen == [(n, 36) for n in range(1, 37)]


ROWS = ("a,toy,10,20,1.5", "b,toy,0,1,1", "a,toy,5,8,0.5")


def test_groups_are_read_with_their_runs_by_start(tmp_path: Path) -> None:
    first, second = load_groups(write_groups_file(tmp_path / "g.csv", *ROWS))

    assert (first.name, first.dataset, second.name) == ("a", "toy", "b")
    assert first.runs == (GroupRun(5.0, 8.0, 0.5), GroupRun(10.0, 20.0, 1.5))


def test_a_packed_file_is_read_like_a_plain_one(tmp_path: Path) -> None:
    plain = write_groups_file(tmp_path / "g.csv", *ROWS)
    packed = tmp_path / "g.csv.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))

    assert load_groups(packed) == load_groups(plain)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.xz"])
def test_groups_that_were_written_are_read_back_unchanged(tmp_path: Path, name: str) -> None:
    groups = load_groups(write_groups_file(tmp_path / "g.csv", "a,toy,0.1,0.30000000000000004,1"))
    write_groups(tmp_path / name, groups)

    assert load_groups(tmp_path / name) == groups


WRONG_GROUPS = {
    "a,toy,5,4,1": "line 2, column end_time: must not be before start_time 5",
    "a,toy,soon,4,1": "line 2, column start_time: must be a number, not 'soon'",
    "a,toy,1,4,0": "line 2, column runtime_ratio: must be above 0",
    ",toy,1,4,1": "line 2, column group: must not be empty",
    "a,toy,1,4,1\na,other,5,6,1": "line 3, column dataset: group a is of toy in an earlier line",
}


@pytest.mark.parametrize("rows", WRONG_GROUPS)
def test_a_wrong_row_of_groups_is_named_with_its_line_and_column(tmp_path: Path, rows: str) -> None:
    with pytest.raises(TraceError) as error:
        load_groups(write_groups_file(tmp_path / "g.csv", *rows.split("\n")))

    assert WRONG_GROUPS[rows] in str(error.value)


def test_a_file_without_groups_or_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no runs"):
        load_groups(write_groups_file(tmp_path / "g.csv"))
    packed = lzma.compress((tmp_path / "g.csv").read_bytes() + b"a,toy,1,2,1\n" * 99)
    (tmp_path / "g.csv.xz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match="not a whole xz file"):
        load_groups(tmp_path / "g.csv.xz")
    (tmp_path / "g.csv.xz").write_bytes(b"plain,text\n")
    with pytest.raises(TraceError, match="not a whole xz file"):
        load_groups(tmp_path / "g.csv.xz")
