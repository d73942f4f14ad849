"""What a real GPU tells the agent and the runtime.  Reads only."""

from __future__ import annotations

from tests.gpu.measured import Board, Load, boards, window
from zeus_runtime.gpu import Gpu
from zeus_runtime.meter import EnergyMeter

WATT = 1000  # milliwatts


def test_each_board_has_a_model_and_bounds_that_hold_its_limits(every_board: list[Board]) -> None:
    for board in every_board:
        identity, reading = board.identity, board.reading
        assert identity.uuid.startswith("GPU-")
        assert identity.model
        assert identity.bounds is not None
        assert identity.default_milliwatts is not None
        assert reading.limit_milliwatts is not None
        low, high = identity.bounds.min_milliwatts, identity.bounds.max_milliwatts
        assert 0 < low <= identity.default_milliwatts <= high
        assert low <= reading.limit_milliwatts <= high


def test_each_board_tells_power_energy_and_what_throttles_it(every_board: list[Board]) -> None:
    for board in every_board:
        reading = board.reading
        assert reading.power_milliwatts is not None
        assert reading.power_milliwatts > WATT
        assert reading.enforced_milliwatts is not None
        assert reading.energy_millijoules is not None
        assert reading.throttling is not None


def test_looking_changes_no_limit(every_board: list[Board]) -> None:
    before = [board.reading.limit_milliwatts for board in every_board]
    assert [board.reading.limit_milliwatts for board in boards()] == before


def test_the_tick_of_the_energy_counter_is_found(gpu: Gpu, meter: EnergyMeter) -> None:
    assert meter.wait_open() is gpu
    meter.wait(meter.mark(), 10.0)
    assert meter.period_seconds is not None
    assert 0.001 < meter.period_seconds < 0.5


def test_a_window_of_the_counter_is_the_power_over_its_time(
    gpu: Gpu, meter: EnergyMeter, load: Load
) -> None:
    assert meter.wait_open() is gpu
    load.start()
    measured = window(gpu, meter)
    assert measured.counter_error_joules < 0.05 * measured.counter_joules
    # NVML's power is good to 5 % by its own documentation, and lags.
    assert 0.9 < measured.ratio < 1.1


def test_the_runtime_knows_the_board_that_the_agent_knows(
    gpu: Gpu, every_board: list[Board]
) -> None:
    assert gpu.facts.uuid in {board.identity.uuid for board in every_board}
