"""Leading: the work runs while the Lease is held, ends with it, and gives it back."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.eventually import eventually
from tests.unit.cluster_process.lease_world import Link, Server
from zeus_operator.leader import LeaderElector, LeadershipLost
from zeus_operator.lease import Candidate, LeaseTimes

TIMES = LeaseTimes(1.0, 0.6, 0.05)

RENEWALS = 40
"""More than fit into the duration of the Lease."""


def elector(server: Server, name: str = "a", link: Link | None = None) -> LeaderElector:
    return LeaderElector(Candidate(link or Link(server), name, TIMES), TIMES)


async def never() -> None:
    raise AssertionError("a standby leads")


def test_the_work_runs_while_it_leads_and_the_lease_is_free_afterwards() -> None:
    server = Server()
    leader = elector(server)
    holders = []

    async def work() -> None:
        leader.check()
        holders.append(server.spec["holderIdentity"])

    asyncio.run(leader.run(work))
    assert holders == ["a"]
    assert server.spec["holderIdentity"] == ""
    with pytest.raises(LeadershipLost, match="released"):
        leader.check()


def test_the_lease_outlives_its_duration_while_the_work_goes_on() -> None:
    """Seen from a standby that would take it if it could."""
    server = Server()
    leader, standby = elector(server), elector(server, "b")

    async def scenario() -> None:
        async def work() -> None:
            taking = asyncio.create_task(standby.run(never))
            await asyncio.to_thread(eventually, lambda: server.writes > RENEWALS, "renewals")
            leader.check()
            assert not standby.is_leader
            assert standby.observed_holder == "a"
            taking.cancel()
            await asyncio.wait({taking})

        await leader.run(work)

    asyncio.run(scenario())


def test_a_busy_loop_does_not_cost_the_lease() -> None:
    server = Server()
    leader = elector(server)

    async def work() -> None:
        eventually(lambda: server.writes > RENEWALS, "renewals while this blocks the loop")
        leader.check()

    asyncio.run(leader.run(work))


def test_a_standby_takes_over_when_the_leader_stops_and_only_after_its_work_has_ended() -> None:
    server = Server()
    first, second = elector(server, "a"), elector(server, "b")
    order: list[str] = []

    async def scenario() -> None:
        begun = asyncio.Event()

        async def first_work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.2)
                order.append("a has ended")

        async def second_work() -> None:
            order.append("b leads")

        running = asyncio.create_task(first.run(first_work))
        await begun.wait()
        waiting = asyncio.create_task(second.run(second_work))
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        await waiting

    asyncio.run(scenario())
    assert order == ["a has ended", "b leads"]


def test_a_failure_of_the_work_is_raised_and_the_lease_is_free() -> None:
    server = Server()

    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(elector(server).run(work))
    assert server.spec["holderIdentity"] == ""


@pytest.mark.parametrize("way", ["cut", "hangs"])
def test_who_can_not_renew_ends_its_work_and_says_so(way: str) -> None:
    """A request that hangs for ever must not keep the deadline from being seen."""
    server = Server()
    link = Link(server)
    go_on = threading.Event()
    ended = []

    async def work() -> None:
        if way == "cut":
            link.cut = True
        else:
            link.hang = go_on
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(leader.is_leader)

    leader = elector(server, link=link)
    try:
        with pytest.raises(LeadershipLost, match="could not be renewed"):
            asyncio.run(leader.run(work))
    finally:
        go_on.set()
    assert ended == [False]
    assert not link.gave_up_hanging


def test_work_that_does_not_end_is_not_waited_for() -> None:
    server = Server()
    link = Link(server)

    async def scenario() -> None:
        go_on = asyncio.Event()

        async def work() -> None:
            link.cut = True
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    continue

        with pytest.raises(LeadershipLost):
            await elector(server, link=link).run(work)
        go_on.set()

    asyncio.run(scenario())


def test_the_lease_taken_by_another_ends_the_work() -> None:
    server = Server()

    async def work() -> None:
        while True:
            lease = server.read()
            assert lease is not None
            try:
                server.write(
                    {**lease["spec"], "holderIdentity": "b"},
                    lease["metadata"]["resourceVersion"],
                )
            except Exception:  # the leader was quicker: once more
                continue
            break
        await asyncio.Event().wait()

    with pytest.raises(LeadershipLost, match="b has taken the Lease"):
        asyncio.run(elector(server).run(work))


def test_a_standby_that_is_stopped_leaves_the_lease_alone() -> None:
    server = Server()
    server.write({"holderIdentity": "z", "leaseDurationSeconds": 60}, None)
    standby = elector(server)

    async def scenario() -> None:
        waiting = asyncio.create_task(standby.run(never))
        await asyncio.to_thread(
            eventually, lambda: standby.observed_holder == "z", "the holder is seen"
        )
        waiting.cancel()
        await asyncio.wait({waiting})

    asyncio.run(scenario())
    assert server.spec["holderIdentity"] == "z"


def test_a_server_that_answers_nonsense_is_asked_again() -> None:
    server = Server()
    server.write({"holderIdentity": "", "leaseDurationSeconds": "soon"}, None)
    link = Link(server)
    answers = iter([ValueError("a proxy's page"), None])
    read = link.read

    def first_nonsense() -> object:
        if (error := next(answers, None)) is not None:
            raise error
        return read()

    link.read = first_nonsense  # type: ignore[assignment]

    async def work() -> None:
        pass

    asyncio.run(elector(server, link=link).run(work))
