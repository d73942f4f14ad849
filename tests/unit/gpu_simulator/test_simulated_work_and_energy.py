"""How long work takes, what it costs, and what the counters tell."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from gpu_simulator import Simulator, create_state, predict
from tests.support.eventually import eventually
from tests.support.nvml_client import NvmlClient

SET = "nvmlDeviceSetPowerManagementLimit(gpu({}), {})"
COUNTER = "nvmlDeviceGetTotalEnergyConsumption(gpu(0))"
QUEUE = "[begin(0, {samples}) for _ in range({count})]"


def make(tmp_path: Path, *models: str, **settings: object) -> Simulator:
    return create_state(tmp_path / "gpus", models or ("V100",), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["V100", "A40", "A100", "H100"])
def test_a_step_takes_the_time_the_model_says(tmp_path: Path, model: str) -> None:
    simulator = make(tmp_path, model, time_scale=0.01)
    limit = simulator.power_limit_watts(0)
    with NvmlClient(tmp_path / "gpus") as client:
        for workload in ("shufflenetv2", "resnet18", "resnet50", "bert"):
            for samples in (8, 64):
                said = predict(model, workload, samples, limit, time_scale=0.01).seconds
                taken = client(f"step(0, {samples}, {workload!r})")
                assert taken == pytest.approx(said, rel=1e-6)


def test_the_energy_of_work_is_its_time_at_the_power_of_the_model(tmp_path: Path) -> None:
    simulator = make(tmp_path, workload="resnet50", time_scale=0.02)
    said = predict("V100", "resnet50", 256, 150, time_scale=0.02)
    idle_watts = simulator.get("power_watts", 0)
    with NvmlClient(tmp_path / "gpus") as client:
        client(SET.format(0, 150_000))
        before, start, tickets, seconds, after, end = client(
            f"(energy(0), time.monotonic(), tickets := {QUEUE.format(samples=256, count=20)},"
            " [finish(0, t) for t in tickets], energy(0), time.monotonic())"
        )
    assert len(tickets) == 20
    busy = sum(seconds)
    assert busy == pytest.approx(20 * said.seconds, rel=1e-6)
    # The GPU idles between the readings and the queue, and only there.
    work = after - before - idle_watts * (end - start - busy)
    assert work == pytest.approx(20 * said.joules, rel=0.005)


def test_a_lower_limit_slows_a_step_and_saves_energy(tmp_path: Path) -> None:
    make(tmp_path, workload="resnet50", time_scale=0.02)
    with NvmlClient(tmp_path / "gpus") as client:
        used = {}
        for limit in (250, 150):
            client(SET.format(0, 1000 * limit))
            seconds = client("step(0, 256)")
            used[limit] = (seconds, seconds * predict("V100", "resnet50", 256, limit).watts)
    assert used[150][0] > 1.1 * used[250][0]
    assert used[150][1] < 0.9 * used[250][1]


def test_a_limit_set_while_work_runs_counts_from_then_on(tmp_path: Path) -> None:
    simulator = make(tmp_path, workload="resnet50")
    fast, slow = (predict("V100", "resnet50", 256, watts).seconds for watts in (250, 100))
    with NvmlClient(tmp_path / "gpus") as client:

        def lowered_in_time() -> bool:
            simulator.foreign_limit(0, 250)
            ticket = client("begin(0, 256)")
            client.send(f"finish(0, {ticket})")  # waits with the end of a step at 250 W in mind
            simulator.foreign_limit(0, 100)
            still_running = simulator.get("queued", 0) == 1
            seconds = client.receive()
            if still_running:  # else this machine was too busy to lower it within the step
                assert fast < seconds <= slow * (1 + 1e-9)
            return still_running

        eventually(lowered_in_time, "a limit set within a step")


def test_whoever_waits_for_work_sees_a_change_at_once(tmp_path: Path) -> None:
    simulator = make(tmp_path, time_scale=1e5)  # hours
    with NvmlClient(tmp_path / "gpus") as client:
        client.send("step(0, 512)")
        eventually(lambda: simulator.get("queued", 0) == 1, "the work is queued")
        simulator.set("time_scale", 1e-3)
        assert client.receive() > 0


def test_clients_of_one_gpu_take_turns_and_those_of_two_do_not(tmp_path: Path) -> None:
    simulator = make(tmp_path, "V100", "V100", time_scale=1e5)
    with NvmlClient(tmp_path / "gpus") as one, NvmlClient(tmp_path / "gpus") as other:
        first = one("begin(0, 64)")
        second = other("begin(0, 64)")
        third = other("begin(1, 64)")
        assert second > first
        assert simulator.get("queued", 0) == 2
        assert simulator.get("queued", 1) == 1
        simulator.set("time_scale", 1e-3)
        said = predict("V100", "shufflenetv2", 64, 250, time_scale=1e-3).seconds
        # The second ran its whole time after the first, none of it meanwhile.
        assert other(f"finish(0, {second})") == pytest.approx(said, rel=1e-6)
        assert one(f"finish(0, {first})") > 0
        assert other(f"finish(1, {third})") > 0


def test_the_queue_has_room_for_more_than_a_process_ever_waits_for(tmp_path: Path) -> None:
    make(tmp_path, time_scale=1e-4)
    with NvmlClient(tmp_path / "gpus") as client:
        client("[begin(0, 8) for _ in range(1000)]")  # results nobody asks for
        assert client("step(0, 8)") > 0


def test_a_ticket_is_good_once_and_only_where_it_was_given(tmp_path: Path) -> None:
    make(tmp_path, time_scale=1e-3)
    with NvmlClient(tmp_path / "gpus") as client:
        ticket = client("begin(0, 8)")
        client(f"finish(0, {ticket})")
        assert client.error_of(f"finish(0, {ticket})") == 6
        assert client.error_of("finish(0, 999)") == 6
        assert client.error_of("begin(0, 0)") == 2
        assert client.error_of("begin(0, float('nan'))") == 2
        assert client.error_of("begin(0, 8, 'alexnet')") == 2


def test_the_counter_moves_only_at_its_ticks(tmp_path: Path) -> None:
    make(tmp_path, tick_seconds=10, time_scale=0.01)
    with NvmlClient(tmp_path / "gpus") as client:

        def within_one_tick() -> bool:
            ticks = "math.floor(time.monotonic() / 10)"
            before, counted, work, after_count, after = client(
                f"(math := __import__('math'), {ticks}, {COUNTER}, step(0, 512), {COUNTER},"
                f" {ticks})[1:]"
            )
            if before != after:
                return False
            assert work > 0
            assert counted == after_count
            return True

        eventually(within_one_tick, "no tick of ten seconds falls into a short step")


def test_every_tick_adds_the_energy_of_its_period(tmp_path: Path) -> None:
    simulator = make(tmp_path, tick_seconds=0.02)
    per_tick = 1e3 * 0.02 * simulator.get("power_watts", 0)  # an idle V100
    seen: list[int] = []
    with NvmlClient(tmp_path / "gpus") as client:
        eventually(lambda: client(COUNTER), "the first tick")
        eventually(lambda: seen.append(client(COUNTER)) or len(set(seen)) > 10, "ten ticks")
    for earlier, later in pairwise(sorted(set(seen))):
        ticks = (later - earlier) / per_tick
        assert ticks == pytest.approx(round(ticks), abs=2 / per_tick)
        assert round(ticks) >= 1


def test_the_ticks_fall_on_whole_periods_of_the_monotonic_clock(tmp_path: Path) -> None:
    tick = 0.25
    simulator = make(tmp_path, tick_seconds=tick, time_scale=1e5)
    watts = predict("V100", "shufflenetv2", 512, 250).watts
    with NvmlClient(tmp_path / "gpus") as client:
        client("begin(0, 512)")  # runs for hours: constant power
        eventually(lambda: simulator.get("counter_joules", 0) > 2 * tick * watts, "two ticks")

        def within_one_period() -> bool:
            before, true_joules, counted, after = client(
                f"(time.monotonic(), energy(0), {COUNTER}, time.monotonic())"
            )
            boundary = math.floor(before / tick) * tick
            if after >= boundary + tick:
                return False
            since_tick = (true_joules - 1e-3 * counted) / watts
            assert before - boundary - 1e-4 <= since_tick <= after - boundary + 1e-4
            return True

        eventually(within_one_period, "two readings within a quarter of a second")


def test_power_usage_is_a_mean_of_a_second_on_an_a40_and_instant_on_v100_and_a100(
    tmp_path: Path,
) -> None:
    simulator = make(tmp_path, "V100", "A100", "A40", "H100", workload="resnet50", time_scale=1e4)
    with NvmlClient(tmp_path / "gpus") as client:
        seen = client(
            "[begin(i, 256) for i in range(4)] and"
            " [(nvmlDeviceGetPowerUsage(gpu(i)),"
            " *[v.value.uiVal for v in nvmlDeviceGetFieldValues(gpu(i), [185, 186])])"
            " for i in range(4)]"
        )
        for index, (usage, average, instant) in enumerate(seen):
            now = simulator.get("power_watts", index)
            assert instant == pytest.approx(1e3 * now, abs=1)
            averaged = simulator.device(index).model in ("A40", "H100")
            if averaged:
                assert usage < instant
            else:
                assert usage == instant
            assert average <= instant
        eventually(
            lambda: (
                client("nvmlDeviceGetPowerUsage(gpu(2))")
                >= 0.999e3 * simulator.get("power_watts", 2)
            ),
            "after a second of work the mean is what the work draws",
        )


def test_work_shows_in_clocks_reasons_and_utilisation(tmp_path: Path) -> None:
    make(tmp_path, workload="resnet50", time_scale=1e4)
    with NvmlClient(tmp_path / "gpus") as client:
        client("begin(0, 256)")
        assert client("nvmlDeviceGetPerformanceState(gpu(0))") == 0
        full = client("nvmlDeviceGetClockInfo(gpu(0), 1)")
        client(SET.format(0, 100_000))
        assert client("nvmlDeviceGetClockInfo(gpu(0), 1)") < full
        assert client("nvmlDeviceGetCurrentClocksEventReasons(gpu(0))") == 4
        eventually(lambda: client("nvmlDeviceGetUtilizationRates(gpu(0)).gpu") > 60, "it is used")
        assert client("nvmlDeviceGetViolationStatus(gpu(0), 0).violationTime") > 0


def test_noise_is_repeatable_by_seed_and_absent_by_default(tmp_path: Path) -> None:
    def steps(noise: float, seed: int) -> list[float]:
        make(tmp_path, noise=noise, seed=seed, time_scale=1e-3)
        with NvmlClient(tmp_path / "gpus") as client:
            return list(client("[step(0, 8) for _ in range(20)]"))

    quiet = steps(0, 0)
    assert max(quiet) - min(quiet) < 1e-9
    noisy = steps(0.05, 0)
    assert steps(0.05, 0) == pytest.approx(noisy, rel=1e-6)
    assert steps(0.05, 1) != pytest.approx(noisy, rel=1e-6)
    assert 0.005 < (max(noisy) - min(noisy)) / quiet[0] < 0.5
