"""Energy that can be billed: a total that never falls, over resets, restarts, kills and reboots."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeus_agent.energy_totals import EnergyMeter, EnergyTotals
from zeus_agent.limits import Rules
from zeus_agent.metrics import Metrics
from zeus_agent.throttling import REASONS, reasons_of

GPU = "GPU-1"
WATTS = 300.0
SHOWN = "zeus_agent_gpu_energy_joules_total"


LONG = 10_000_000  # millijoules: what a counter shows that has run for a while


def started(
    folder: Path, boot_id: str = "boot-1", boot_seconds: float = 0.0
) -> tuple[EnergyTotals, EnergyMeter]:
    """Return what an agent that has just been started counts with."""
    totals = EnergyTotals(folder, boot_id, lambda: boot_seconds)
    assert totals.load() == ""
    return totals, totals.meter(GPU)


def written(totals: EnergyTotals, meter: EnergyMeter, *, last: bool) -> None:
    totals.write(totals.document([(GPU, meter, WATTS)], last=last))


def test_energy_goes_on_when_the_drivers_counter_begins_again() -> None:
    meter = EnergyMeter()
    resets = [meter.add(value) for value in (5_000, 7_000, 7_000, 1_000, 3_000)]
    assert resets == [False, False, False, True, False]
    assert meter.total_joules == pytest.approx(2.0 + 0.0 + 1.0 + 2.0)


def test_the_next_agent_goes_on_and_counts_what_was_used_while_none_ran(tmp_path: Path) -> None:
    totals, meter = started(tmp_path)
    meter.add(1_000)
    meter.add(51_000)
    written(totals, meter, last=True)
    _, meter = started(tmp_path)
    assert meter.total_joules == 50.0, "before its first look too"
    assert not meter.add(71_000)
    assert meter.total_joules == 70.0


def test_a_killed_agent_loses_nothing_while_the_counter_goes_on(tmp_path: Path) -> None:
    totals, meter = started(tmp_path)
    meter.add(LONG)
    written(totals, meter, last=False)
    meter.add(LONG + 90_000)  # shown, not written
    _, meter = started(tmp_path, boot_seconds=3.0)
    meter.add(LONG + 95_000)
    assert meter.total_joules == 95.0


@pytest.mark.parametrize("counter_before", [LONG, 0])
def test_after_a_kill_and_a_reset_the_total_is_not_below_what_may_have_been_shown(
    tmp_path: Path, counter_before: int
) -> None:
    totals, meter = started(tmp_path)
    meter.add(counter_before)
    written(totals, meter, last=False)
    meter.add(counter_before + 3_000_000)  # ten seconds at 300 W, shown and not written
    shown = meter.total_joules
    _, meter = started(tmp_path, boot_seconds=60.0)
    meter.add(7_000)  # of a driver that was loaded again, were it above the counter before or not
    assert meter.total_joules >= shown


def test_after_a_proper_stop_and_a_reset_nothing_is_added_that_was_not_used(
    tmp_path: Path,
) -> None:
    totals, meter = started(tmp_path)
    meter.add(0)
    meter.add(80_000)
    written(totals, meter, last=True)
    _, meter = started(tmp_path)
    meter.add(7_000)
    assert meter.total_joules == 87.0


def test_after_a_reboot_the_counter_is_another_one_however_high_it_is(tmp_path: Path) -> None:
    totals, meter = started(tmp_path)
    meter.add(0)
    meter.add(80_000)
    written(totals, meter, last=True)
    _, meter = started(tmp_path, "boot-2")
    meter.add(100_000)
    assert meter.total_joules == 180.0


def test_a_gpu_that_was_away_for_whole_agents_is_remembered_with_its_boot(tmp_path: Path) -> None:
    totals, meter = started(tmp_path)
    meter.add(0)
    meter.add(80_000)
    written(totals, meter, last=True)
    totals, _ = started(tmp_path, "boot-2")
    totals.write(totals.document([], last=True))
    _, meter = started(tmp_path, "boot-2")
    meter.add(100_000)
    assert meter.total_joules == 180.0


ENTRY = {
    **{"joules": 1.0, "counter_millijoules": 1, "max_watts": 1.0},
    **{"is_last": True, "boot_id": "boot-1", "boot_seconds": 1.0},
}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 2}', '{"format": 1, "gpus": {"GPU-1": {}}}']
    + [
        json.dumps({"format": 1, "gpus": {GPU: entry}})
        for entry in (
            [1],
            {**ENTRY, "joules": -1},
            {**ENTRY, "joules": 1e999},
            {**ENTRY, "counter_millijoules": None},
            {key: value for key, value in ENTRY.items() if key != "boot_id"},
        )
    ],
)
def test_a_damaged_file_is_told_and_counting_begins_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "energy.json").write_text(content)
    totals = EnergyTotals(tmp_path, "boot-1")
    assert "energy is counted from zero" in totals.load()
    assert totals.meter(GPU).total_joules == 0.0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("use"), st.integers(0, 3_000)),
            st.tuples(st.sampled_from(["write", "stop", "kill", "reset"]), st.just(0)),
        ),
        max_size=40,
    )
)
def test_no_order_of_use_writes_stops_kills_and_resets_lets_the_total_fall(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    counter, unwritten, now = LONG, 0, 0.0

    def start() -> tuple[EnergyTotals, EnergyMeter]:
        totals = EnergyTotals(folder, "boot-1", lambda: now)
        assert totals.load() == ""
        return totals, totals.meter(GPU)

    totals, meter = start()
    meter.add(counter)
    written(totals, meter, last=False)
    shown, used = 0.0, 0
    for event, joules in events:
        if event == "use" and unwritten + joules <= WATTS * 10:
            counter += joules * 1000
            used += joules
            unwritten += joules
            now += joules / WATTS + 0.001  # no GPU can have used it in less
        elif event in ("write", "stop"):
            written(totals, meter, last=event == "stop")
            unwritten = 0
        elif event == "reset":
            counter = 0
        if event in ("stop", "kill"):
            totals, meter = start()
        meter.add(counter)
        if event in ("stop", "kill"):
            written(totals, meter, last=False)
            unwritten = 0
        assert meter.total_joules >= shown
        shown = meter.total_joules
    if not any(event == "reset" for event, _ in events):
        assert meter.total_joules == pytest.approx(used)


def test_a_total_is_not_shown_before_the_counter_tells_what_came_since(tmp_path: Path) -> None:
    totals, meter = started(tmp_path)
    meter.add(LONG)
    written(totals, meter, last=False)
    _, meter = started(tmp_path)  # after a kill: more may have been shown than was written
    gpu, metrics = SimpleNamespace(uuid=GPU, healthy=False, energy=meter), Metrics()
    metrics.show_gpu(gpu, None, Rules())  # type: ignore[arg-type]  # the part of a GPU that is shown
    assert metrics.registry.get_sample_value(SHOWN, {"gpu": GPU}) is None
    meter.add(LONG + 90_000)
    metrics.show_gpu(gpu, None, Rules())  # type: ignore[arg-type]
    assert metrics.registry.get_sample_value(SHOWN, {"gpu": GPU}) == 90.0


def test_the_reasons_of_throttling_are_named_by_their_bits() -> None:
    assert reasons_of(0) == frozenset()
    assert reasons_of(0x1 | 0x4 | 0x40) == {"gpu_idle", "sw_power_cap", "hw_thermal_slowdown"}
    assert reasons_of(1 << 40) == {"other"}
    assert {name for bit in range(12) for name in reasons_of(1 << bit)} == set(REASONS)
