"""A few steps at other batch sizes tell what an epoch at them costs, where that pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runtime_lab import RuntimeLab, decided
from tests.support.virtual_sweep import V100, SweepingRun
from zeus_runtime.sweep import FirstEpoch, MemoryUse, Sweep, TrainingData

WANTED = (16, 32, 64, 128, 256)


def sizes(run: SweepingRun) -> list[int]:
    return [size for size, _ in run.served]


def test_the_sizes_go_up_after_the_run_s_own_in_the_second_epoch_alone() -> None:
    run = SweepingRun(WANTED)
    run.train(1)
    assert (run.served, run.free_at) == ([], None)
    run.train(1)
    assert sizes(run) == [64, 16, 32, 128, 256]
    run.train(2)
    assert len(run.served) == 5
    assert run.steps == 4 * 1000  # those of the sweep are none of the run's


@pytest.mark.parametrize("tick_seconds", [0.02, 0.1])
@pytest.mark.parametrize("between_seconds", [0.0, 4.0])
def test_an_epoch_at_each_size_is_told_as_a_run_at_it_would_find(
    tick_seconds: float, between_seconds: float
) -> None:
    settings = {
        "tick_seconds": tick_seconds,
        "between_seconds": between_seconds,
        "start_seconds": 0.2,
    }
    run = SweepingRun(WANTED, **settings)
    run.train(3)
    found = {each.batch_size: each for each in run.sweep.measurements()}
    assert sorted(found) == [16, 32, 128, 256]
    for size, measured in found.items():
        alone = SweepingRun((), own=size, **settings)
        alone.train(4)
        use = alone.accounting.use
        assert use is not None
        assert measured.epoch_seconds == pytest.approx(use.time_seconds, rel=0.01)
        assert measured.epoch_joules == pytest.approx(use.energy_joules, rel=0.01)


def test_the_sweep_is_in_the_totals_and_not_in_the_cost_of_an_epoch() -> None:
    swept, plain = (SweepingRun(wanted, between_seconds=2.0, noise=0.0) for wanted in (WANTED, ()))
    for run in (swept, plain):
        run.train(4)
    with_sweep, without = swept.accounting, plain.accounting
    assert with_sweep.use is not None
    assert without.use is not None
    assert with_sweep.use.time_seconds == pytest.approx(without.use.time_seconds, rel=1e-3)
    assert with_sweep.use.energy_joules == pytest.approx(without.use.energy_joules, rel=1e-3)
    assert with_sweep.full_power == with_sweep.use
    assert (without.sweep, plain.sweep.measurements()) == (None, ())
    assert with_sweep.sweep is not None
    assert with_sweep.sweep.time_seconds == pytest.approx(swept.now - plain.now, rel=1e-6)
    more = with_sweep.energy_joules - without.energy_joules
    assert with_sweep.sweep.energy_joules == pytest.approx(more, rel=0.02)


def test_a_loader_that_starts_once_more_after_a_sweep_does_not_make_full_power_dear() -> None:
    run = SweepingRun(WANTED, start_seconds=1.0, limit_watts=150.0)
    run.train(4)
    full_power = run.accounting.full_power
    assert full_power is not None
    assert full_power.time_seconds == pytest.approx(1.0 + 1000 * run.seconds_at(64), rel=1e-3)


def test_what_comes_before_the_batches_of_an_epoch_does_not_make_full_power_dear() -> None:
    run = SweepingRun(WANTED)
    run.train(1)
    serve = run.serve

    def later() -> None:
        run.now += 5.0  # the script validates first; then the loader begins
        serve()

    run.serve = later  # type: ignore[method-assign]  # the scripted run
    run.train(2)
    full_power = run.accounting.full_power
    assert full_power is not None
    assert full_power.time_seconds == pytest.approx(1000 * run.seconds_at(64), rel=1e-3)


def test_the_power_limit_is_free_once_the_sweep_is_over_and_not_before() -> None:
    run = SweepingRun(WANTED)
    run.train(1)
    begun = run.now
    run.train(1)
    assert run.free_at is not None
    assert begun < run.free_at < begun + 0.5 * (run.now - begun)
    assert run.sweep.over


def test_the_result_says_which_size_is_served_before_it_is() -> None:
    run = SweepingRun(WANTED)
    run.train(2)
    assert run.written == [64, 16, 32, 128, 256, None]


@pytest.mark.parametrize("samples", [640, 6400])
def test_where_a_window_would_take_too_much_of_an_epoch_there_is_no_sweep(samples: int) -> None:
    run = SweepingRun(WANTED, samples=samples, tick_seconds=0.02)
    run.train(1)
    begun = run.now
    run.train(1)
    assert sizes(run) == ([] if samples == 640 else [64, 16, 32, 128])
    assert run.free_at is not None
    if samples == 640:
        assert run.free_at == begun
        assert "would take too long" in run.notices.note()


def sweep(wanted: tuple[int, ...], data: TrainingData, epoch_seconds: float = 1000.0) -> list[int]:
    made = Sweep(64, data.others(wanted, 64), FirstEpoch(epoch_seconds, 0.1), 0.1)
    return list(iter(lambda: made.next_size(None), None))


def test_sizes_of_one_of_the_run_and_beyond_the_data_are_left_out() -> None:
    data = TrainingData(5000, 6000)
    assert sweep((1, 8, 64, 4096, 8192), data) == [64, 8, 4096]
    assert sweep((1, 64, 8192), data) == []


def test_a_size_whose_own_steps_take_too_long_is_left_out_alone() -> None:
    # A step of 1024 samples takes 1.6 s, four of them 6.4 s of the 60 s of an epoch.
    assert sweep((32, 512, 1024), TrainingData(40_000, 40_000), 60.0) == [64, 32, 512]


def test_loaders_that_start_slowly_are_counted_from_the_first_on() -> None:
    run = SweepingRun(WANTED, samples=12_800, start_seconds=0.7)  # epochs of 7.5 s
    run.train(2)
    assert sizes(run) == [64]
    assert run.sweep.measurements() == ()


def test_a_size_that_takes_far_longer_than_expected_ends_the_sweep() -> None:
    run = SweepingRun(WANTED, seconds_at=lambda size: 20.0 if size == 32 else 0.002 + 0.0005 * size)
    run.train(3)
    assert run.served[-1] == (32, 1)
    assert [each.batch_size for each in run.sweep.measurements()] == [16]
    assert "ended at batch size 32" in run.notices.note()


@pytest.mark.parametrize(
    ("room", "served"),
    [
        (100.0, [64, 16, 32]),
        (250.0, [64, 16, 32, 128]),
        (400.0, [64, 16, 32, 128, 256]),
        (None, [64, 16, 32, 128, 256]),
    ],
)
def test_a_larger_size_is_tried_only_if_it_should_fit(
    room: float | None, served: list[int]
) -> None:
    run = SweepingRun(WANTED, room_bytes=room, bytes_at=lambda size: 20.0 + size)
    run.train(2)
    assert sizes(run) == served


def test_memory_grows_by_the_steepest_line_that_was_seen() -> None:
    memory = MemoryUse()
    assert not memory.at(64) < 1e30
    memory.measured(64, 640.0)
    assert memory.at(128) == 1280.0  # nothing but the batch, as far as is known
    memory.measured(32, 400.0)
    memory.measured(16, 390.0)
    assert memory.at(128) == 640.0 + 64 * 7.5
    memory.measured(128, 600.0)  # less than before: nothing can be told
    assert memory.at(256) == pytest.approx(600.0 + 128 * 200.0 / 96.0)


def test_a_script_that_does_not_take_every_batch_is_not_swept() -> None:
    run = SweepingRun(WANTED)
    run.train(1)
    run.steps_per_epoch += 1
    run.train(1)
    assert run.served == []
    assert "took 1000 of the 1001 batches" in run.notices.note()


def test_without_energy_there_is_nothing_to_learn() -> None:
    run = SweepingRun(WANTED)
    run.train(1)
    run.problem = "the GPU is lost"
    run.train(1)
    assert (run.served, run.sweep.over) == ([], True)


def test_a_loop_left_in_the_middle_counts_as_serving_until_training_goes_on() -> None:
    run = SweepingRun(WANTED)
    run.train(1)
    now = run.accounting.begin_epoch(run.steps)
    run.sweep.on_epoch_begin(now, 1, run.steps_per_epoch)
    run.sweep.begin()
    assert run.sweep.next_size(None) == 64
    run.sweep.begin_step()
    run.step(64)
    assert run.sweep.end_step()
    run.sweep.abandon()
    assert (run.sweep.serving, run.sweep.over, run.free_at) == (64, False, None)
    run.sweep.leave()
    assert (run.sweep.serving, run.sweep.over, run.free_at) == (None, True, run.now)
    run.train(2)
    assert run.accounting.use is not None
    expected = run.steps_per_epoch * run.seconds_at(64)
    assert run.accounting.use.time_seconds == pytest.approx(expected, rel=1e-3)


def test_a_sweep_that_nobody_ended_is_over_with_its_epoch() -> None:
    run = SweepingRun(WANTED, between_seconds=2.0)
    run.train(1)

    def stuck() -> None:
        run.sweep.begin()
        assert run.sweep.next_size(None) == 64

    run.serve = stuck  # type: ignore[method-assign]  # the scripted run
    run.train(3)
    assert (run.sweep.serving, run.sweep.over) == (None, True)
    use = run.accounting.use
    assert use is not None
    assert use.time_seconds == pytest.approx(1000 * run.seconds_at(64) + 2.0, rel=1e-3)


def test_what_a_whole_epoch_takes_less_than_its_steps_did_is_taken_off_in_proportion() -> None:
    # In a window every step takes 10 % longer than it does in an epoch.
    slow = {"in_sweep": False}

    def seconds_at(size: int) -> float:
        return (1.1 if slow["in_sweep"] else 1.0) * (0.008 + 0.001 * size)

    run = SweepingRun(WANTED, seconds_at=seconds_at)
    run.train(1)
    serve = run.serve

    def slowly() -> None:
        slow["in_sweep"] = True
        serve()
        slow["in_sweep"] = False

    run.serve = slowly  # type: ignore[method-assign]  # the scripted run
    run.train(3)
    for measured in run.sweep.measurements():
        expected = 64_000 / measured.batch_size * seconds_at(measured.batch_size)
        assert measured.epoch_seconds == pytest.approx(expected, rel=0.01)
        assert measured.epoch_joules == pytest.approx(expected * V100.watts(250.0), rel=0.01)


def test_a_loop_without_a_loader_does_not_sweep_and_waits_for_nothing(tmp_path: Path) -> None:
    lab = RuntimeLab(tmp_path)
    try:
        lab.start_agent()
        decision = decided(sweep_batch_sizes=(8, 32))
        ended = lab.run({"metrics": [0.95], "steps": 400}, lab.environ(decision))
    finally:
        lab.close()
    assert ended.result is not None
    assert (ended.exit_code, ended.result.sweep) == (0, ()), ended.errors
    assert ended.result.power_profile  # within the first epoch
    assert "no other batch size was measured" in ended.result.note
