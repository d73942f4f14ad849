"""The last report of each pod: on disk, bounded, for a week."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.async_scenario import Clock, scenario
from zeus_agent import reports as module
from zeus_agent.callers import PodCaller
from zeus_agent.leases import Refused
from zeus_agent.reports import (
    KEEP_SECONDS,
    MAX_RESULT_BYTES,
    SYNCS_BURST,
    Reports,
    Write,
    shortened,
)
from zeus_runtime.protocol import ErrorCode, PodReport, PowerProfilePoint, Result


def pod(number: int) -> PodCaller:
    return PodCaller("team", f"train-{number}", f"uid-{number}", "trainer")


@asynccontextmanager
async def started(
    folder: Path, wall: Clock, *, clock: Clock | None = None, write: Write | None = None
) -> AsyncIterator[Reports]:
    """Keep reports on clocks that go together, unless they are told apart."""
    reports = Reports(folder, wall, clock=clock or wall, write=write)
    await reports.start()
    try:
        yield reports
    finally:
        reports.stop()


async def read(reports: Reports, number: int) -> PodReport | None:
    data = await reports.of_pod(f"uid-{number}")
    return None if data is None else PodReport.from_body(json.loads(data))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def listed(reports: Reports) -> list[str]:
    return [each["pod_uid"] for each in json.loads(await reports.newest())]


@scenario
async def test_the_newest_report_of_a_pod_outlives_the_agent(tmp_path: Path) -> None:
    clock = Clock(1_000_000.0)
    async with started(tmp_path / "reports", clock) as reports:
        await reports.keep(pod(1), Result(epochs=1))
        clock.advance(5.0)
        await reports.keep(pod(1), Result(epochs=2, outcome="reached"))
    async with started(tmp_path / "reports", clock) as reports:
        report = await read(reports, 1)
        assert report == PodReport(
            "uid-1", "team", "train-1", 1_000_005.0, Result(epochs=2, outcome="reached")
        )
        assert await read(reports, 2) is None


@scenario
async def test_the_newest_reports_come_first(tmp_path: Path) -> None:
    clock = Clock()
    async with started(tmp_path, clock) as reports:
        for number in (1, 2, 3, 1):
            clock.advance(1.0)
            await reports.keep(pod(number), Result())
        assert await listed(reports) == ["uid-1", "uid-3", "uid-2"]
    async with started(tmp_path, clock) as reports:
        assert await listed(reports) == ["uid-1", "uid-3", "uid-2"]


@scenario
async def test_a_report_is_kept_for_a_week_over_restarts_too(tmp_path: Path) -> None:
    clock = Clock()
    async with started(tmp_path, clock) as reports:
        await reports.keep(pod(1), Result())
        clock.advance(KEEP_SECONDS)
        await reports.keep(pod(2), Result())
        await reports.tidy()
        assert await listed(reports) == ["uid-2", "uid-1"]
    async with started(tmp_path, clock) as reports:
        clock.advance(1.0)
        await reports.tidy()
        assert await listed(reports) == ["uid-2"]
        assert files(tmp_path) == ["uid-2.json"]


@scenario
async def test_a_clock_that_was_ahead_does_not_keep_a_report_for_longer(tmp_path: Path) -> None:
    clock = Clock(5_000_000.0)
    async with started(tmp_path, clock) as reports:
        await reports.keep(pod(1), Result())
    clock.seconds = 1_000_000.0
    async with started(tmp_path, clock) as reports:
        clock.advance(KEEP_SECONDS + 1.0)
        await reports.tidy()
        assert await listed(reports) == []


@scenario
async def test_their_number_is_bounded_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REPORTS", 3)
    clock = Clock()
    async with started(tmp_path, clock) as reports:
        for number in range(5):
            clock.advance(1.0)
            await reports.keep(pod(number), Result())
        assert await listed(reports) == ["uid-4", "uid-3", "uid-2"]
        assert len(files(tmp_path)) == 3


@scenario
async def test_a_list_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    async with started(tmp_path, clock) as reports:
        for number in range(4):
            clock.advance(1.0)
            await reports.keep(pod(number), Result())
        size = len(await reports.of_pod("uid-0") or b"")
        monkeypatch.setattr(module, "MAX_LISTED_BYTES", 3 * size)
        assert await listed(reports) == ["uid-3", "uid-2"]


@scenario
async def test_a_disk_that_fails_costs_no_report_while_the_agent_lives(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    async with started(folder, Clock()) as reports:
        await reports.keep(pod(1), Result(epochs=1))
        hidden = folder.rename(tmp_path / "hidden")
        folder.write_text("no folder")
        await reports.keep(pod(1), Result(epochs=2))
        report = await read(reports, 1)
        assert report is not None
        assert report.result.epochs == 2
        folder.unlink()
        hidden.rename(folder)
        await reports.tidy()
    async with started(folder, Clock()) as reports:
        report = await read(reports, 1)
        assert report is not None
        assert report.result.epochs == 2


class Disk:
    """Writes files, counts, and hangs while the test wants it to."""

    def __init__(self) -> None:
        self.works = threading.Event()
        self.works.set()
        self.written: list[bool] = []

    def __call__(self, path: Path, data: bytes, durable: bool) -> None:
        self.works.wait()
        path.write_bytes(data)
        self.written.append(durable)


@scenario
async def test_a_disk_that_hangs_does_not_bring_an_older_report_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISK_TIMEOUT_SECONDS", 0.05)
    disk = Disk()
    async with started(tmp_path, Clock(), write=disk) as reports:
        disk.works.clear()
        first = asyncio.create_task(reports.keep(pod(1), Result(sequence=1, epochs=1)))
        await asyncio.sleep(0)
        final = Result(sequence=2, epochs=2, outcome="reached")
        second = asyncio.create_task(reports.keep(pod(1), final))
        await asyncio.gather(first, second)
        report = await read(reports, 1)
        assert report is not None
        assert report.result == final, "it is told from memory"
        disk.works.set()
        while len(disk.written) < 2:  # the first, at last, and the newest
            await reports.tidy()
        assert len(disk.written) == 2
    async with started(tmp_path, Clock()) as reports:
        report = await read(reports, 1)
        assert report is not None
        assert report.result == final


@scenario
async def test_reports_that_come_while_one_is_written_cost_one_write(tmp_path: Path) -> None:
    disk = Disk()
    async with started(tmp_path, Clock(), write=disk) as reports:
        await reports.newest()  # what is there is known
        disk.works.clear()
        many = [
            asyncio.create_task(reports.keep(pod(1), Result(sequence=number)))
            for number in range(100)
        ]
        await asyncio.sleep(0.01)
        disk.works.set()
        await asyncio.gather(*many)
        assert len(disk.written) <= 2
        report = await read(reports, 1)
        assert report is not None
        assert report.result.sequence == 99


@scenario
async def test_a_pod_makes_the_disk_finish_only_so_often(tmp_path: Path) -> None:
    disk, clock = Disk(), Clock()
    async with started(tmp_path, clock, write=disk) as reports:
        for number in range(50):
            await reports.keep(pod(1), Result(sequence=number, outcome="reached"))
        assert len(disk.written) == 50
        assert sum(disk.written) == SYNCS_BURST
        await reports.keep(pod(2), Result(outcome="reached"))
        assert disk.written[-1], "another pod's is as safe as ever"
        clock.advance(60.0)
        await reports.keep(pod(1), Result(sequence=50, outcome="reached"))
        assert disk.written[-1]


@pytest.mark.parametrize("over_restart", [False, True])
@pytest.mark.parametrize("older", [(1, 9), (2, 4)], ids=["earlier-attempt", "earlier-report"])
def test_an_older_report_is_refused_whatever_session_it_comes_from(
    tmp_path: Path, older: tuple[int, int], over_restart: bool
) -> None:
    final = Result(attempt=2, sequence=5, outcome="reached")

    async def comes(reports: Reports) -> None:
        with pytest.raises(Refused) as refused:
            await reports.keep(pod(1), Result(attempt=older[0], sequence=older[1]))
        assert refused.value.code is ErrorCode.STALE_SEQUENCE
        report = await read(reports, 1)
        assert report is not None
        assert report.result == final

    @scenario
    async def check() -> None:
        async with started(tmp_path, Clock()) as reports:
            await reports.keep(pod(1), final)
            if not over_restart:
                await comes(reports)
        if over_restart:
            async with started(tmp_path, Clock()) as reports:
                await comes(reports)

    check()


@pytest.mark.parametrize("days", [8, -8])
def test_a_date_that_is_set_makes_no_report_older(tmp_path: Path, days: int) -> None:
    @scenario
    async def check() -> None:
        wall, clock = Clock(100 * 86_400.0), Clock()
        async with started(tmp_path, wall, clock=clock) as reports:
            await reports.keep(pod(1), Result())
            wall.advance(days * 86_400.0)
            await reports.tidy()
            assert await listed(reports) == ["uid-1"]
            clock.advance(KEEP_SECONDS + 1.0)
            await reports.tidy()
            assert await listed(reports) == []

    check()


@scenario
async def test_a_start_before_the_date_is_set_makes_no_report_older(tmp_path: Path) -> None:
    wall, clock = Clock(100 * 86_400.0), Clock()
    async with started(tmp_path, wall, clock=clock) as reports:
        await reports.keep(pod(1), Result())
    wall.seconds = 0.0  # 1970, as without a battery
    async with started(tmp_path, wall, clock=clock) as reports:
        assert await listed(reports) == ["uid-1"]
        wall.seconds = 100 * 86_400.0
        await reports.tidy()
        assert await listed(reports) == ["uid-1"]


@scenario
async def test_a_folder_that_hangs_holds_up_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISK_TIMEOUT_SECONDS", 0.05)
    async with started(tmp_path, Clock()) as reports:
        await reports.keep(pod(1), Result(sequence=1))
    works = threading.Event()
    listing = Path.iterdir

    def hangs(folder: Path) -> Iterator[Path]:
        works.wait()
        return iter(list(listing(folder)))

    monkeypatch.setattr(Path, "iterdir", hangs)
    try:
        async with started(tmp_path, Clock()) as reports:
            assert not works.is_set(), "it has started all the same"
            await reports.keep(pod(2), Result())
            works.set()
            assert "uid-2" in await listed(reports)
    finally:
        works.set()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pod_uid": 1}', "[" * 100_000])
def test_a_file_that_is_no_report_is_dropped_and_others_are_kept(
    tmp_path: Path, content: str
) -> None:
    @scenario
    async def check() -> None:
        async with started(tmp_path, Clock()) as reports:
            await reports.keep(pod(1), Result())
        (tmp_path / "uid-2.json").write_text(content)
        (tmp_path / "uid-3.tmp").write_text("half a wri")
        async with started(tmp_path, Clock()) as reports:
            assert await listed(reports) == ["uid-1"]
            assert files(tmp_path) == ["uid-1.json"]

    check()


def test_a_long_result_loses_detail_and_keeps_what_counts() -> None:
    points = tuple(PowerProfilePoint(float(w), 1.0, 1.0) for w in range(50))
    milestones = tuple((epoch, epoch / 7.0) for epoch in range(2000))
    result = Result(
        epochs=2000, energy_joules=5.0, note="x" * 900, power_profile=points, milestones=milestones
    )
    short = shortened(result)
    assert len(json.dumps(short.milestones)) < MAX_RESULT_BYTES
    assert (short.epochs, short.energy_joules) == (2000, 5.0)
    assert short.milestones[-1][0] == 1999
    assert shortened(Result(milestones=milestones[:50])) == Result(milestones=milestones[:50])
