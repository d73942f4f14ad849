"""Whose energy it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.async_scenario import Clock, scenario, soon
from zeus_agent.cluster import energy_by_pod
from zeus_agent.cluster.energy_by_pod import EXPIRY_SECONDS, EnergyByPod, Totals
from zeus_agent.cluster.energy_file import WRITE_PERIOD_SECONDS, EnergyFile
from zeus_agent.cluster.live_pods import LivePod

A, B = "GPU-a-1", "GPU-b-2"
TRAIN = LivePod("uid-1", "team", "train-0", "default", zeusjob="nightly")
OTHER = LivePod("uid-2", "lab", "notebook", "default")


class Owners:
    """Whose boards the test says they are."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[LivePod, ...]] = {}
        self.shared: set[str] = set()
        self.is_known = True

    def owner_of(self, gpu_uuid: str) -> tuple[LivePod, ...]:
        return self.of.get(gpu_uuid, ())

    def is_shared(self, gpu_uuid: str) -> bool:
        return gpu_uuid in self.shared


class Bench:
    def __init__(self, stored: Totals | None = None) -> None:
        self.owners = Owners()
        self.clock = Clock()
        self.energy = EnergyByPod(self.owners, stored=stored, clock=self.clock)
        self.registry = CollectorRegistry()
        self.registry.register(self.energy)

    def shown(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the samples of a metric as Prometheus reads them."""
        text = generate_latest(self.registry).decode()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        named = [s for s in samples if s.name == name]
        found = {tuple(s.labels.values()): s.value for s in named}
        assert len(found) == len(named), "two series of the same labels"
        return found

    @property
    def pods(self) -> dict[tuple[str, ...], float]:
        return self.shown("zeus_agent_pod_energy_joules_total")

    @property
    def namespaces(self) -> dict[tuple[str, ...], float]:
        return self.shown("zeus_agent_namespace_energy_joules_total")

    @property
    def nobodys(self) -> dict[tuple[str, ...], float]:
        return self.shown("zeus_agent_unattributed_energy_joules_total")


def test_energy_is_the_pods_that_has_the_board_alone() -> None:
    b = Bench()
    b.owners.of = {A: (TRAIN,), B: (OTHER,)}
    b.energy.add(A, 10.0)
    b.energy.add(A, 5.0)
    b.energy.add(B, 1.0)
    assert b.pods == {("team", "train-0", "nightly"): 15.0, ("lab", "notebook", ""): 1.0}
    assert b.namespaces == {("team",): 15.0, ("lab",): 1.0}


def test_boards_of_one_pod_are_added_up() -> None:
    b = Bench()
    b.owners.of = {A: (TRAIN,), B: (TRAIN,)}
    b.energy.add(A, 10.0)
    b.energy.add(B, 5.0)
    assert b.pods == {("team", "train-0", "nightly"): 15.0}


def test_energy_that_is_no_single_pods_is_counted_apart() -> None:
    b = Bench()
    b.energy.add(A, 1.0)
    b.owners.of = {A: (TRAIN,), B: (TRAIN, OTHER)}
    b.owners.shared = {A}  # by a replica that nobody else has yet
    b.energy.add(A, 2.0)
    b.energy.add(B, 4.0)
    b.owners.is_known = False
    b.energy.add(A, 8.0)
    assert b.nobodys == {("unowned",): 1.0, ("shared",): 6.0, ("unknown",): 8.0}
    assert b.pods == {}


def test_nothing_is_lost_between_pods_and_nobody() -> None:
    b = Bench()
    for owners in [(TRAIN,), (), (OTHER,), (TRAIN, OTHER)]:
        b.owners.of = {A: owners}
        b.energy.add(A, 1.0)
    assert sum(b.pods.values()) + sum(b.nobodys.values()) == 4.0


def test_series_of_a_pod_that_is_gone_stay_until_they_were_scraped_and_then_expire() -> None:
    b = Bench()
    b.owners.of = {A: (TRAIN,)}
    b.energy.add(A, 10.0)
    b.owners.of = {A: (OTHER,)}
    b.clock.advance(EXPIRY_SECONDS)
    b.energy.add(A, 1.0)
    assert set(b.pods) == {("team", "train-0", "nightly"), ("lab", "notebook", "")}
    b.clock.advance(0.1)
    assert set(b.pods) == {("lab", "notebook", "")}
    assert b.namespaces == {("team",): 10.0, ("lab",): 1.0}, "what a namespace used never falls"


def test_a_pod_that_goes_on_does_not_expire() -> None:
    b = Bench()
    b.owners.of = {A: (TRAIN,)}
    for _ in range(3):
        b.clock.advance(EXPIRY_SECONDS)
        b.energy.add(A, 0.0)
        assert set(b.pods) == {("team", "train-0", "nightly")}


def test_a_later_pod_of_the_same_name_goes_on_in_the_same_series() -> None:
    b = Bench()
    b.owners.of = {A: (TRAIN,)}
    b.energy.add(A, 10.0)
    b.owners.of = {A: (LivePod("uid-9", "team", "train-0", "default", zeusjob="nightly"),)}
    b.energy.add(A, 1.0)
    assert b.pods == {("team", "train-0", "nightly"): 11.0}


def test_all_totals_go_on_after_a_restart() -> None:
    b = Bench()
    b.owners.of = {A: (TRAIN,)}
    b.energy.add(A, 10.0)
    b.energy.add(B, 3.0)
    later = Bench(b.energy.totals())
    assert later.pods == {("team", "train-0", "nightly"): 10.0}
    assert later.namespaces == {("team",): 10.0}
    assert later.nobodys[("unowned",)] == 3.0
    later.owners.of = {A: (TRAIN,)}
    later.energy.add(A, 1.0)
    later.energy.show(later.energy.totals())
    assert later.pods == {("team", "train-0", "nightly"): 11.0}
    assert later.namespaces == {("team",): 11.0}


def test_where_totals_are_stored_no_more_is_shown_than_that() -> None:
    b = Bench(Totals())
    b.owners.of = {A: (TRAIN,)}
    b.energy.add(A, 10.0)
    assert b.pods == {}
    stored = b.energy.totals()
    b.energy.add(A, 5.0)  # while the file is written
    b.energy.show(stored)
    assert b.pods == {("team", "train-0", "nightly"): 10.0}


@scenario
async def test_totals_survive_an_agent_that_is_killed_and_never_fall(tmp_path: Path) -> None:
    file = EnergyFile(tmp_path / "energy.json")
    b = Bench(file.load())
    b.owners.of = {A: (TRAIN,)}
    b.energy.add(A, 10.0)
    storing = asyncio.create_task(file.store(b.energy))
    await asyncio.sleep(0)
    b.energy.add(A, 5.0)  # while the file is written
    await storing
    b.energy.add(A, 2.0)  # and killed
    shown = b.pods
    later = Bench(EnergyFile(tmp_path / "energy.json").load())
    assert later.pods == shown == {("team", "train-0", "nightly"): 10.0}


@scenario
async def test_totals_are_stored_now_and_then(tmp_path: Path) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 1:
            await asyncio.Event().wait()

    file, b = EnergyFile(tmp_path / "energy.json", sleep=sleep), Bench(Totals())
    b.owners.of = {A: (TRAIN,)}
    b.energy.add(A, 10.0)
    work = asyncio.create_task(file.run(b.energy))
    await soon(lambda: b.pods, "they are shown")
    work.cancel()
    await asyncio.wait([work])
    assert waits == [WRITE_PERIOD_SECONDS] * 2
    assert file.load() == b.energy.totals()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"format": 2}',
        b'{"format": 1, "pods": [["a"]], "namespaces": {}, "unattributed": {}}',
        b'{"format": 1, "pods": [], "namespaces": {"a": -1}, "unattributed": {}}',
        b'{"format": 1, "pods": [], "namespaces": {"a": NaN}, "unattributed": {}}',
    ],
)
def test_a_file_that_can_not_be_read_is_no_crash(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "energy.json").write_bytes(content)
    assert EnergyFile(tmp_path / "energy.json").load() == Totals()


@scenario
async def test_a_disk_that_takes_nothing_stops_no_metric(tmp_path: Path) -> None:
    file, b = EnergyFile(tmp_path / "no" / "folder" / "energy.json"), Bench(Totals())
    b.owners.of = {A: (TRAIN,)}
    b.energy.add(A, 10.0)
    await file.store(b.energy)
    assert b.pods == {("team", "train-0", "nightly"): 10.0}


def test_namespaces_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_by_pod, "MAX_NAMESPACES", 3)
    b = Bench()
    for number in [1, 2, 3, 1, 4]:
        b.owners.of = {A: (LivePod("uid", f"ns-{number}", "pod", "default"),)}
        b.energy.add(A, 1.0)
    assert b.namespaces == {("ns-3",): 1.0, ("ns-1",): 2.0, ("ns-4",): 1.0}


@pytest.mark.parametrize("joules", [-1.0, float("nan"), float("inf")])
def test_energy_that_can_not_be_is_an_error_and_not_a_counter_that_falls(joules: float) -> None:
    b = Bench()
    b.owners.of = {A: (TRAIN,)}
    with pytest.raises(ValueError, match="GPU-a-1"):
        b.energy.add(A, joules)
    assert b.pods == {}
