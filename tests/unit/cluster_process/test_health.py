"""Health: what only a restart heals, what a replica needs to count, and that HTTP says so."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from tests.support.eventually import eventually
from zeus_operator.health import (
    Check,
    HealthServer,
    Limits,
    Ping,
    Vitals,
    WorkerState,
    liveness,
    readiness,
)
from zeus_operator.metrics import Metrics

LEADER = Vitals(
    workers=lambda: [WorkerState("worker-0", alive=True), WorkerState("worker-1", True, 3.0)],
    is_leader=lambda: True,
    first_list_done=lambda: True,
    watch_ages_seconds=lambda: {"zeusjobs": 5.0, "pods": 8.0},
    lease_age_seconds=lambda: 1.0,
    store_problem=lambda: "",
)
STANDBY = replace(
    LEADER,
    workers=lambda: [],
    is_leader=lambda: False,
    first_list_done=lambda: False,
    watch_ages_seconds=lambda: {},
)
LIMITS = Limits(worker_stuck_seconds=300, watch_silent_seconds=720, lease_unread_seconds=30)


def problems(checks: tuple[Check, ...]) -> list[str]:
    return [str(check) for check in checks if check.problem]


class TestLiveness:
    def test_is_well_when_all_workers_turn(self) -> None:
        assert problems(liveness(LEADER, LIMITS)) == []

    def test_fails_for_a_dead_worker(self) -> None:
        vitals = replace(LEADER, workers=lambda: [WorkerState("worker-0", alive=False)])
        assert problems(liveness(vitals, LIMITS)) == ["workers: failed: worker-0 has died"]

    def test_fails_for_a_worker_that_is_stuck(self) -> None:
        vitals = replace(
            LEADER, workers=lambda: [WorkerState("worker-0", True, 301, "vision/cifar")]
        )
        assert problems(liveness(vitals, LIMITS)) == [
            "workers: failed: worker-0 has been on vision/cifar for 301 s"
        ]

    def test_depends_on_neither_store_nor_api_server(self) -> None:
        vitals = replace(
            LEADER,
            store_problem=lambda: "PostgreSQL does not answer",
            watch_ages_seconds=lambda: {"zeusjobs": 10_000},
            lease_age_seconds=lambda: 10_000,
            first_list_done=lambda: False,
        )
        assert problems(liveness(vitals, LIMITS)) == []


class TestReadiness:
    def test_of_a_leader_names_each_check(self) -> None:
        assert [str(check) for check in readiness(LEADER, LIMITS)] == [
            "loop: ok",
            "workers: ok",
            "store: ok",
            "first list: ok",
            "watch pods: ok",
            "watch zeusjobs: ok",
        ]

    def test_of_a_standby_needs_the_lease_and_no_watch(self) -> None:
        assert [str(check) for check in readiness(STANDBY, LIMITS)] == [
            "loop: ok",
            "workers: ok",
            "store: ok",
            "lease: ok",
        ]

    @pytest.mark.parametrize(
        ("vitals", "line"),
        [
            (
                replace(LEADER, first_list_done=lambda: False),
                "first list: failed: the first list is not complete yet",
            ),
            (
                replace(LEADER, watch_ages_seconds=lambda: {"pods": 721.0}),
                "watch pods: failed: silent for 721 s",
            ),
            (
                replace(LEADER, watch_ages_seconds=lambda: {"pods": None}),
                "watch pods: failed: nothing was heard yet",
            ),
            (
                replace(LEADER, store_problem=lambda: "its schema is newer than this release"),
                "store: failed: its schema is newer than this release",
            ),
            (
                replace(LEADER, workers=lambda: [WorkerState("worker-0", alive=False)]),
                "workers: failed: worker-0 has died",
            ),
            (
                replace(STANDBY, lease_age_seconds=lambda: None),
                "lease: failed: it could not be read yet",
            ),
            (
                replace(STANDBY, lease_age_seconds=lambda: 31.0),
                "lease: failed: it could not be read for 31 s",
            ),
            (
                replace(STANDBY, store_problem=lambda: "PostgreSQL does not answer"),
                "store: failed: PostgreSQL does not answer",
            ),
        ],
    )
    def test_fails_with_the_reason(self, vitals: Vitals, line: str) -> None:
        assert problems(readiness(vitals, LIMITS)) == [line]


class TestPing:
    def test_knows_the_last_answer_and_asks_again_when_it_is_old(self) -> None:
        answers = iter(["", "away", ""])
        now = 0.0
        ping = Ping(lambda: next(answers), keep_seconds=1, clock=lambda: now)

        async def scenario() -> list[str]:
            nonlocal now
            said = [ping.problem()]
            for time in (0.0, 0.5, 1.0, 2.0):
                now = time
                await ping.refresh()
                said.append(ping.problem())
            return said

        assert asyncio.run(scenario()) == ["it was not asked yet", "", "", "away", ""]

    def test_takes_an_error_for_an_answer(self) -> None:
        def ask() -> str:
            raise ConnectionError("refused")

        async def scenario() -> str:
            ping = Ping(ask)
            await ping.refresh()
            return ping.problem()

        assert asyncio.run(scenario()) == "refused"

    def test_does_not_wait_for_ever_and_asks_only_once_meanwhile(self) -> None:
        go_on = threading.Event()
        asked = []
        now = 0.0

        def ask() -> str:
            asked.append(now)
            go_on.wait(60)
            return ""

        async def scenario() -> list[str]:
            nonlocal now
            ping = Ping(ask, keep_seconds=0, patience_seconds=0.01, clock=lambda: now)
            await ping.refresh()
            now = 9.0
            await ping.refresh()
            said = [ping.problem()]
            go_on.set()
            await asyncio.to_thread(eventually, lambda: not ping.problem(), "the answer is taken")
            return said

        assert asyncio.run(scenario()) == ["no answer for 9 s"]
        assert asked == [0.0]


class TestServer:
    def test_answers_with_a_line_for_each_check(self) -> None:
        vitals = replace(LEADER, first_list_done=lambda: False)

        async def ask(get: Get) -> None:
            assert await get("/healthz") == (200, "loop: ok\nworkers: ok\n")
            status, text = await get("/readyz")
            assert status == 503
            assert "first list: failed: the first list is not complete yet\n" in text
            assert "store: ok\n" in text

        serve(HealthServer(vitals, Metrics().registry), ask)

    def test_is_ready_when_every_check_is_well(self) -> None:
        async def ask(get: Get) -> None:
            assert (await get("/readyz"))[0] == 200

        serve(HealthServer(STANDBY, Metrics().registry), ask)

    def test_asks_the_store_before_it_judges(self) -> None:
        ping = Ping(lambda: "PostgreSQL does not answer")
        vitals = replace(LEADER, store_problem=ping.problem)

        async def ask(get: Get) -> None:
            assert (await get("/healthz"))[0] == 200
            status, text = await get("/readyz")
            assert (status, "store: failed: PostgreSQL does not answer\n" in text) == (503, True)

        serve(HealthServer(vitals, Metrics().registry, store=ping), ask)

    def test_shows_the_metrics(self) -> None:
        metrics = Metrics()
        metrics.read_leader(lambda: True)

        async def ask(get: Get) -> None:
            status, text = await get("/metrics")
            assert (status, "zeus_operator_leader 1.0" in text) == (200, True)

        serve(HealthServer(LEADER, metrics.registry), ask)

    def test_says_which_address_is_taken_and_what_to_set(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"127.0.0.1:{port}: .*ZEUS_OPERATOR_HTTP_PORT"):
                asyncio.run(HealthServer(LEADER, Metrics().registry).start("127.0.0.1", port))


Get = Callable[[str], Awaitable[tuple[int, str]]]


def serve(server: HealthServer, ask: Callable[[Get], Awaitable[None]]) -> None:
    async def scenario() -> None:
        port = await server.start("127.0.0.1", 0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as response:
                    return response.status, await response.text()

            try:
                await ask(get)
            finally:
                await server.stop()

    asyncio.run(scenario())
