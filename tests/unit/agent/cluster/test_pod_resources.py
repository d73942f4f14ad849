"""The kubelet's list of devices, over real gRPC at a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.async_scenario import scenario, soon
from tests.support.fake_kubelet import FakeKubelet
from zeus_agent.cluster.ownership import DeviceSet, PodDevices
from zeus_agent.cluster.pod_resources import KubeletUnavailable, PodResources

A = "GPU-aaaaaaaa-0000-4000-8000-000000000001"
B = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
NAME = "nvidia.com/gpu"


@scenario
async def test_devices_of_all_containers_of_all_pods_are_listed(tmp_path: Path) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        kubelet.give("team", "train", {NAME: [A, B]}, {"rdma/hca": ["0"]})
        kubelet.give("team", "plain")
        resources = PodResources(tmp_path)
        assert await resources.list() == (
            PodDevices("team", "train", (DeviceSet(NAME, (A, B)), DeviceSet("rdma/hca", ("0",)))),
            PodDevices("team", "plain", ()),
        )
        await resources.close()


@scenario
async def test_drivers_that_have_given_devices_for_claims_are_listed(tmp_path: Path) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        drivers = ("gpu.nvidia.com", "dra.example.com")
        kubelet.give("team", "train", {NAME: [A]}, claims=drivers)
        resources = PodResources(tmp_path)
        assert await resources.list() == (
            PodDevices("team", "train", (DeviceSet(NAME, (A,)),), frozenset(drivers)),
        )
        await resources.close()


@scenario
async def test_an_empty_node_lists_nothing(tmp_path: Path) -> None:
    async with FakeKubelet(tmp_path):
        resources = PodResources(tmp_path)
        assert await resources.list() == ()
        await resources.close()


@scenario
async def test_a_list_of_a_large_node_is_whole(tmp_path: Path) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        for number in range(250):
            kubelet.give(
                "n" * 63, f"{'p' * 240}-{number}", {NAME: [f"{A}::{n}" for n in range(100)]}
            )
        resources = PodResources(tmp_path)
        assert len(await resources.list()) == 250
        await resources.close()


@scenario
async def test_a_kubelet_that_starts_again_at_a_new_socket_is_found_at_once(
    tmp_path: Path,
) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        resources = PodResources(tmp_path)
        assert await resources.list() == ()
        for number in range(3):
            await kubelet.restart()
            kubelet.give("team", f"train-{number}")
            assert len(await resources.list()) == number + 1
        await resources.close()


@scenario
async def test_a_former_kubelet_that_still_holds_its_connections_is_left_for_the_new_one(
    tmp_path: Path,
) -> None:
    async with FakeKubelet(tmp_path):
        resources = PodResources(tmp_path)
        assert await resources.list() == ()
        async with FakeKubelet(tmp_path) as new:
            new.give("team", "train")
            assert len(await resources.list()) == 1
        await resources.close()


@scenario
async def test_a_kubelet_that_is_down_is_unavailable_and_found_when_it_is_up(
    tmp_path: Path,
) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        resources = PodResources(tmp_path)
        await resources.list()
        await kubelet.stop()
        for _ in range(3):
            with pytest.raises(KubeletUnavailable, match=r"kubelet\.sock"):
                await resources.list()
        await kubelet.start()
        assert await resources.list() == ()
        await resources.close()


@scenario
async def test_a_socket_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    resources = PodResources(tmp_path)
    with pytest.raises(KubeletUnavailable, match="mount the kubelet's directory"):
        await resources.list()
    async with FakeKubelet(tmp_path):
        assert await resources.list() == ()
    await resources.close()


@scenario
async def test_a_kubelet_that_hangs_is_waited_for_only_so_long(tmp_path: Path) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        resources = PodResources(tmp_path, timeout_seconds=0.05)
        kubelet.hangs = True
        with pytest.raises(KubeletUnavailable, match="DEADLINE_EXCEEDED"):
            await resources.list()
        kubelet.hangs = False
        assert await resources.list() == ()
        await resources.close()


@scenario
async def test_a_socket_of_something_else_is_no_crash(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "kubelet.sock")
    resources = PodResources(tmp_path)
    with pytest.raises(KubeletUnavailable):
        await resources.list()
    await resources.close()
    server.close()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\x03\x0a\x01\xff"])
@scenario
async def test_an_answer_that_is_no_list_is_no_crash(tmp_path: Path, garbage: bytes) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        resources = PodResources(tmp_path)
        kubelet.garbage = garbage  # what no protobuf begins with, and a name that is no UTF-8
        with pytest.raises(KubeletUnavailable, match="no list"):
            await resources.list()
        kubelet.garbage = b""
        assert await resources.list() == ()
        await resources.close()


@scenario
async def test_calls_at_the_same_time_survive_a_restart_of_the_kubelet(tmp_path: Path) -> None:
    async with FakeKubelet(tmp_path) as kubelet:
        resources = PodResources(tmp_path, timeout_seconds=0.2)
        kubelet.hangs = True
        first = asyncio.create_task(resources.list())
        await soon(lambda: kubelet.calls, "the first has reached it")
        kubelet.hangs = False
        await kubelet.restart()
        others = [asyncio.create_task(resources.list()) for _ in range(3)]
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert isinstance(outcomes[0], KubeletUnavailable)
        assert outcomes[1:] == [(), (), ()]
        await resources.close()
