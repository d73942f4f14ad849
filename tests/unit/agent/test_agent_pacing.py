"""When devices are looked at: limits of slow ones need not wait, and no change is missed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gpu_simulator import create_state, environment
from zeus_agent.pacing import IN_USE_SECONDS, LONGEST_UNSEEN_SECONDS, Pace

STEP_SECONDS = 0.02
LOOK_SECONDS = 5 * STEP_SECONDS


def look(pace: Pace, now_seconds: float, step_seconds: float = STEP_SECONDS) -> None:
    pace.looked(now_seconds, step_seconds, 5 * step_seconds, whole=True)


def slow_since(now_seconds: float) -> Pace:
    """Return the pace of a slow device whose last look ended just now."""
    pace = Pace()
    look(pace, now_seconds - 1.0)
    look(pace, now_seconds)
    return pace


def test_a_quick_device_is_looked_at_whenever_it_is_time_also_while_limits_change() -> None:
    pace = Pace()
    look(pace, 0.0, 2e-6)
    look(pace, 0.1, 2e-6)
    pace.used(0.2)
    assert not pace.is_slow
    assert pace.may_look(0.2)


def test_looks_take_a_tenth_of_a_slow_devices_time() -> None:
    pace = slow_since(100.0)
    assert pace.is_slow
    assert not pace.may_look(100.0 + 8.9 * LOOK_SECONDS)
    assert pace.may_look(100.0 + 9.1 * LOOK_SECONDS)


def test_a_very_slow_device_is_looked_at_all_the_same() -> None:
    pace = Pace()
    look(pace, 0.0, 1.4)
    look(pace, 8.0, 1.4)
    assert pace.may_look(8.0 + LONGEST_UNSEEN_SECONDS)


def test_a_slow_device_whose_limit_changes_all_the_time_is_looked_at_rarely() -> None:
    pace = slow_since(100.0)
    looked_at = []
    now = 100.0
    while now < 125.0:
        now += 0.05
        pace.used(now)
        if pace.may_look(now):
            assert pace.must_look(now), "such a look gives way to nobody"
            look(pace, now)
            looked_at.append(now - 100.0)
    assert [round(seconds) for seconds in looked_at] == [10, 20]


def test_a_slow_device_is_looked_at_soon_after_its_limit_has_changed() -> None:
    pace = slow_since(100.0)
    pace.used(102.0)
    assert not pace.may_look(102.0 + 0.9 * IN_USE_SECONDS)
    assert pace.may_look(102.0 + 1.1 * IN_USE_SECONDS)


def test_one_look_that_a_busy_machine_has_made_long_tells_nothing_of_the_device() -> None:
    pace = Pace()
    look(pace, 0.0, 2e-6)
    look(pace, 1.0)
    assert not pace.is_slow
    look(pace, 2.0)
    assert pace.is_slow
    look(pace, 3.0, 2e-6)
    assert not pace.is_slow


def test_a_look_that_gave_way_before_its_first_step_keeps_what_is_known() -> None:
    pace = slow_since(100.0)
    pace.looked(102.0, 0.0, 0.0, whole=False)
    assert pace.is_slow
    assert pace.must_look(100.0 + LONGEST_UNSEEN_SECONDS), "nothing was seen"


_COUNT_LOOKS = """
import asyncio, json, math, sys
from pathlib import Path
from zeus_agent import pacing
from zeus_agent.journal import Journal
from zeus_agent.keeper import PROFILING_POLL_SECONDS, Keeper
from zeus_agent.metrics import Metrics

pacing.SLOW_STEP_SECONDS = math.inf  # looks take real time, which on a busy machine is any

class Time:
    now_seconds = 0.0

    def __init__(self):
        self.asleep = {}  # by how long

    def clock(self):
        return self.now_seconds

    async def sleep(self, seconds):
        wakes = asyncio.get_running_loop().create_future()
        self.asleep[seconds] = (self.now_seconds + seconds, wakes)
        await wakes

    async def advance(self, to_seconds, goes_on):
        while True:
            period, (at, wakes) = min(self.asleep.items(), key=lambda item: item[1][0])
            if at > to_seconds:
                break
            del self.asleep[period]
            self.now_seconds = at
            wakes.set_result(None)
            while period not in self.asleep and goes_on(period):
                await asyncio.sleep(0.001)
        self.now_seconds = to_seconds

async def count():
    time, metrics = Time(), Metrics()
    keeper = Keeper(
        Journal(Path(sys.argv[1]), "boot"), metrics, poll_seconds=1.0,
        nvml_timeout_seconds=30.0, clock=time.clock, sleep=time.sleep,
    )
    await keeper.start()
    controllers = [keeper.controller(uuid) for uuid in sorted(keeper.gpu_uuids())]
    profiling = controllers[0]

    def goes_on(period):
        return period != PROFILING_POLL_SECONDS or profiling.is_profiling()

    def looks():
        return metrics.registry.get_sample_value(
            "zeus_agent_nvml_call_seconds_count", {"call": "nvmlDeviceGetPowerUsage"}
        )

    async def in_a_second():
        before = looks()
        await time.advance(time.now_seconds + 1.0, goes_on)
        return looks() - before

    while 1.0 not in time.asleep:
        await asyncio.sleep(0.001)
    await time.advance(0.05, goes_on)
    rest = await in_a_second()
    await profiling.result_of(profiling.wish("a", 150_000, 0), "a")
    while PROFILING_POLL_SECONDS not in time.asleep:
        await asyncio.sleep(0.001)
    await time.advance(time.now_seconds + PROFILING_POLL_SECONDS / 2, goes_on)
    said = [rest] + [await in_a_second() for _ in range(7)]
    profiling.machine.release("a")
    await profiling.settled(30.0)
    print(json.dumps(said))
    await keeper.stop(30.0)

asyncio.run(count())
"""


def test_a_gpu_is_looked_at_ten_times_a_second_while_its_lease_profiles(tmp_path: Path) -> None:
    create_state(tmp_path / "gpus", ["A100", "A100"])
    counted = subprocess.run(
        [sys.executable, "-c", _COUNT_LOOKS, str(tmp_path / "state")],
        env={**os.environ, **environment(tmp_path / "gpus")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert counted.returncode == 0, counted.stderr
    before, *after = json.loads(counted.stdout)
    assert before == 2, "both, once a second"
    *profiling, _, _, since = after
    # The other one is looked at once a second all the time.
    assert profiling == [12] * 4
    assert since == 2, "its limit has not changed for a while"
