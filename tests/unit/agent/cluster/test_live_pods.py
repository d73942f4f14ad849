"""Which pods live on the node, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.api_server_double import NODE, ApiServerDouble, Fault, pod_manifest
from tests.support.async_scenario import Clock, scenario, soon
from zeus_agent.cluster import live_pods
from zeus_agent.cluster.kube_api import ApiUnavailable, KubeApi
from zeus_agent.cluster.live_pods import SHORTEST_WATCH_SECONDS, LivePods


class Bench:
    """A server, and pods that follow it."""

    def __init__(self, server: ApiServerDouble, api: KubeApi) -> None:
        self.server = server
        self.clock = Clock()
        self.waits: list[float] = []
        self.pods = LivePods(api, NODE, sleep=self._sleep, clock=self.clock)
        self.gone: list[str] = []
        self.pods.when_gone(lambda pod: self.gone.append(pod.name))

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def names(self) -> set[str]:
        return {pod.name for pod in self.pods.all()}

    async def watching(self) -> None:
        """Return when a watch has begun after the last request."""
        await soon(lambda: self.server.requests[-1:] == ["WATCH /api/v1/pods"], "a watch begins")


@contextlib.asynccontextmanager
async def following(*present: str) -> AsyncIterator[Bench]:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        for name in present:
            await server.add(pod_manifest(name=name))
        bench = Bench(server, api)
        work = asyncio.create_task(bench.pods.run())
        await bench.watching()
        try:
            yield bench
        finally:
            work.cancel()
            await asyncio.wait([work])
            assert work.cancelled(), work


@scenario
async def test_pods_of_this_node_come_and_go() -> None:
    async with following("old") as bench:
        assert bench.pods.is_synced
        assert bench.names() == {"old"}
        new = await bench.server.add(
            pod_manifest(name="new", labels={"zeus.energy/job": "nightly"})
        )
        await bench.server.add(pod_manifest(name="elsewhere", node="node-2"))
        await soon(lambda: bench.names() == {"old", "new"}, "the new pod is seen")
        pod = bench.pods.get(new["metadata"]["uid"])
        assert pod is not None
        assert (pod.namespace, pod.service_account, pod.zeusjob) == ("team", "trainer", "nightly")
        await bench.server.delete(new)
        await soon(lambda: bench.gone == ["new"], "its end is told")
        assert bench.names() == {"old"}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@scenario
async def test_a_pod_that_is_over_is_gone_once_though_its_object_stays(phase: str) -> None:
    async with following("train") as bench:
        (pod,) = bench.pods.all()
        over = await bench.server.add(pod_manifest(name="train", uid=pod.uid, phase=phase))
        await soon(lambda: bench.gone, "it is gone")
        await bench.server.add(over)
        await bench.server.delete(over)
        await bench.server.add(pod_manifest(name="last"))
        await soon(lambda: bench.names() == {"last"}, "later events are read")
        assert bench.gone == ["train"]
        assert bench.pods.is_gone(pod.uid)


@scenario
async def test_a_pod_whose_deletion_is_asked_for_lives_until_it_is_done() -> None:
    async with following("train") as bench:
        (pod,) = bench.pods.all()
        ending = pod_manifest(name="train", uid=pod.uid, deletionTimestamp="2026-01-01T00:00:00Z")
        await bench.server.add(ending)
        await bench.server.add(pod_manifest(name="later"))
        await soon(lambda: bench.names() == {"train", "later"}, "both events are read")
        assert bench.gone == []


@scenario
async def test_a_pod_that_changes_its_label_again_and_again_is_seen_as_it_was_at_first() -> None:
    async with following() as bench:
        for job in ("nightly", "other", ""):
            labels = {"zeus.energy/job": job}
            await bench.server.add(pod_manifest(name="train", uid="uid-1", labels=labels))
        await bench.server.add(pod_manifest(name="later"))
        await soon(lambda: bench.names() == {"train", "later"}, "all events are read")
        pod = bench.pods.get("uid-1")
        assert pod is not None
        assert pod.zeusjob == "nightly"


@pytest.mark.parametrize("how", ["connection breaks", "history is lost", "server is away"])
@scenario
async def test_what_happens_while_nobody_watches_is_noticed_by_the_next_list(how: str) -> None:
    async with following("old", "stays") as bench:
        server = bench.server
        server.list_fault = Fault.ERROR
        await server.break_watches()
        await soon(lambda: bench.waits, "the watch is broken")
        if how == "server is away":
            await server.go_away()
        old = next(pod for pod in bench.pods.all() if pod.name == "old")
        await server.delete(pod_manifest(name="old", uid=old.uid))
        await server.add(pod_manifest(name="new"))
        if how == "history is lost":
            await server.forget_history()
        assert bench.names() == {"old", "stays"}, "nobody is gone because nobody answers"
        server.list_fault = Fault.NONE
        if how == "server is away":
            await server.come_back()
        await soon(lambda: bench.names() == {"new", "stays"}, "the list is right again")
        assert bench.gone == ["old"]


@scenario
async def test_a_version_that_is_too_old_is_listed_anew() -> None:
    async with following("old") as bench:
        (old,) = bench.pods.all()
        bench.server.watch_fault = Fault.ERROR
        await bench.server.break_watches()
        await soon(lambda: len(bench.waits) > 1, "the watch fails")
        await bench.server.delete(pod_manifest(name="old", uid=old.uid))
        await bench.server.forget_history()
        bench.server.watch_fault = Fault.NONE
        await soon(lambda: bench.gone == ["old"], "the list is read anew")


@scenario
async def test_a_watch_that_ends_in_good_order_goes_on_without_a_list() -> None:
    async with following("old") as bench:
        lists = bench.server.requests.count("GET /api/v1/pods")
        await bench.server.bookmark()
        bench.clock.advance(SHORTEST_WATCH_SECONDS)
        await bench.server.end_watches()
        await soon(lambda: bench.server.requests.count("WATCH /api/v1/pods") == 2, "it goes on")
        await bench.server.add(pod_manifest(name="new"))
        await soon(lambda: "new" in bench.names(), "nothing is missed")
        assert bench.server.requests.count("GET /api/v1/pods") == lists
        assert bench.waits == []


@scenario
async def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_a_pause() -> None:
    async with following() as bench:
        await bench.server.end_watches()
        await soon(lambda: len(bench.waits) == 1, "it waits")


@scenario
async def test_the_pauses_get_longer_and_have_an_end() -> None:
    async with following() as bench:
        bench.server.list_fault = Fault.ERROR
        await bench.server.break_watches()
        await soon(lambda: len(bench.waits) >= 12, "it tries again and again")
        assert 0.25 <= bench.waits[0] <= 0.5
        assert 15.0 <= bench.waits[11] <= 30.0


@scenario
async def test_a_pod_that_calls_before_the_watch_has_told_of_it_is_asked_for_once() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        pods = LivePods(api, NODE)
        manifest = await server.add(pod_manifest())
        uid = manifest["metadata"]["uid"]
        for _ in range(2):
            pod = await pods.confirm("team", "train", uid, "trainer")
            assert pod is not None
            assert pod.uid == uid
        assert server.requests == ["GET /api/v1/namespaces/team/pods/train"]


@pytest.mark.parametrize("case", ["other uid", "none", "other node", "over"])
@scenario
async def test_what_does_not_live_here_is_not_confirmed(case: str) -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        pods = LivePods(api, NODE)
        match case:
            case "other uid":
                await server.add(pod_manifest(uid="uid-2"))
            case "other node":
                await server.add(pod_manifest(uid="uid-1", node="node-2"))
            case "over":
                await server.add(pod_manifest(uid="uid-1", phase="Succeeded"))
        assert await pods.confirm("team", "train", "uid-1", "trainer") is None


@scenario
async def test_a_uid_that_is_gone_is_not_brought_back_by_a_late_answer() -> None:
    async with following("train") as bench:
        (pod,) = bench.pods.all()
        manifest = pod_manifest(name="train", uid=pod.uid)
        await bench.server.delete(manifest)
        await soon(lambda: bench.gone, "it is gone")
        bench.server.show_again(manifest)
        assert await bench.pods.confirm("team", "train", pod.uid, "trainer") is None
        assert bench.pods.get(pod.uid) is None


@scenario
async def test_an_answer_that_was_on_its_way_while_the_pod_ended_confirms_nothing() -> None:
    async with following() as bench:
        manifest = pod_manifest(name="young", uid="uid-young")
        bench.server.show_again(manifest)  # the watch has not told of it
        bench.server.let_gets_go = asyncio.Event()
        asked = asyncio.create_task(bench.pods.confirm("team", "young", "uid-young", "trainer"))
        await soon(lambda: "pods/young" in bench.server.requests[-1], "it is asked for")
        await bench.server.delete(manifest)
        await soon(lambda: bench.pods.is_gone("uid-young"), "its end is seen")
        bench.server.let_gets_go.set()
        assert await asked is None
        assert bench.names() == set()


@scenario
async def test_a_pod_is_confirmed_by_all_of_its_names() -> None:
    async with following("train") as bench:
        (pod,) = bench.pods.all()
        assert await bench.pods.confirm("team", "train", pod.uid, "trainer") == pod
        assert await bench.pods.confirm("other", "train", pod.uid, "trainer") is None
        assert await bench.pods.confirm("team", "other", pod.uid, "trainer") is None
        assert await bench.pods.confirm("team", "train", pod.uid, "admin") is None


@scenario
async def test_a_pod_can_not_be_confirmed_while_nobody_answers() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        server.get_fault = Fault.ERROR
        with pytest.raises(ApiUnavailable):
            await LivePods(api, NODE).confirm("team", "train", "uid-1", "trainer")


@scenario
async def test_a_pod_that_is_confirmed_while_a_list_is_read_is_not_taken_for_gone() -> None:
    async with following("old") as bench:
        server = bench.server
        server.let_lists_go = asyncio.Event()
        await server.break_watches()
        await soon(lambda: server.requests[-1] == "GET /api/v1/pods", "a list is on its way")
        young = await server.add(pod_manifest(name="young"))
        assert await bench.pods.confirm("team", "young", young["metadata"]["uid"], "trainer")
        server.let_lists_go.set()
        await bench.watching()
        assert bench.names() == {"old", "young"}
        assert bench.gone == []


@pytest.mark.parametrize("late", ["the answer", "the list"])
@scenario
async def test_an_answer_older_than_a_list_does_not_bring_back_a_pod_that_has_ended(
    late: str,
) -> None:
    async with following() as bench:
        server = bench.server
        young = pod_manifest(name="young", uid="uid-young")
        server.show_again(young)  # no watch ever tells of it
        if late == "the answer":
            server.let_gets_go = asyncio.Event()
            asked = asyncio.create_task(bench.pods.confirm("team", "young", "uid-young", "trainer"))
            await soon(lambda: "pods/young" in server.requests[-1], "its answer is on its way")
            server.forget(young)
            await server.break_watches()
            await bench.watching()  # after a list without it
            server.let_gets_go.set()
            assert await asked is None
        else:
            server.let_lists_begin = asyncio.Event()
            await server.break_watches()
            await soon(lambda: server.requests[-1] == "GET /api/v1/pods", "a list is on its way")
            assert await bench.pods.confirm("team", "young", "uid-young", "trainer")
            server.forget(young)
            server.let_lists_begin.set()
            await bench.watching()
        assert bench.names() == set()


@scenario
async def test_what_is_remembered_of_former_pods_is_bounded() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_pods, "MAX_REMEMBERED_GONE", 8)
        async with following() as bench:
            for number in range(10):
                name = f"over-{number}"
                await bench.server.add(pod_manifest(name=name, uid=name, phase="Failed"))
            await soon(lambda: bench.pods.is_gone("over-9"), "all are seen")
            assert not bench.pods.is_gone("over-1")
            assert bench.pods.is_gone("over-2")
