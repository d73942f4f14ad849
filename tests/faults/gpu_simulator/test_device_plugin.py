"""The device plug-in as the kubelet sees it, and what its containers see."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pynvml
import pytest

from gpu_simulator import Simulator, create_state
from tests.support.eventually import eventually
from tests.support.nvml_client import NvmlClient
from tests.support.plugin_kubelet import PluginKubelet

GPU = "nvidia.com/gpu"
UUIDS = "[nvmlDeviceGetUUID(gpu(i)) for i in range(nvmlDeviceGetCount())]"


class Node:
    """A machine's state, the kubelet's folder, and the plug-in while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = folder / "plugins"
        self.plugins.mkdir()
        self.log = folder / "plugin.log"
        self.simulator: Simulator = create_state(folder / "gpus", ["A100", "A40", "V100"])
        self.uuids = self.simulator.uuids()

    @contextlib.contextmanager
    def plugin(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gpu_simulator.control"),
                    *("--state", str(self.simulator.path), "device-plugin"),
                    *("--plugin-dir", str(self.plugins), "--poll-seconds", "0.05", *options),
                ],
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def kubelet(self, *, refuse: bool = False, clears_folder: bool = True) -> PluginKubelet:
        return PluginKubelet(self.plugins, refuse=refuse, clears_folder=clears_folder)

    def container(self, given: Any, **variables: str) -> NvmlClient:
        """Run a program with the mounts and variables that a container runtime would give it."""
        root = Path(tempfile.mkdtemp(prefix="container-", dir=self.folder))
        for mount in given.mounts:
            inside = root / mount.container_path.lstrip("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            os.link(mount.host_path, inside)  # the same file under another path, as a bind mount
        return NvmlClient(
            root / given.envs["GPU_SIM_STATE"].lstrip("/"),
            environ={**os.environ, **given.envs, **variables},
        )


@pytest.fixture
def node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        yield Node(Path(folder))


def offered(kubelet: PluginKubelet, resource: str = GPU) -> list[str]:
    return sorted(kubelet.devices.get(resource, {}))


def test_each_gpu_is_offered_under_its_uuid(node: Node) -> None:
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet) == sorted(node.uuids), "every GPU is offered")
        assert set(kubelet.devices[GPU].values()) == {"Healthy"}
        assert kubelet.registrations == [(GPU, "v1beta1")]
        assert kubelet.options(GPU).get_preferred_allocation_available


@pytest.mark.parametrize("fault", ["lost", "vanished"])
def test_a_gpu_that_is_lost_is_unhealthy_until_it_is_back(node: Node, fault: str) -> None:
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet) == sorted(node.uuids), "every GPU is offered")
        node.simulator.set_fault(1, fault)
        eventually(lambda: kubelet.devices[GPU][node.uuids[1]] == "Unhealthy", "it is unhealthy")
        assert kubelet.devices[GPU][node.uuids[0]] == "Healthy"
        node.simulator.clear_fault(1)
        eventually(lambda: kubelet.devices[GPU][node.uuids[1]] == "Healthy", "it is healthy")
        assert len(kubelet.registrations) == 1


def test_without_a_driver_no_gpu_is_healthy(node: Node) -> None:
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet), "the GPUs are offered")
        node.simulator.unload_driver()
        eventually(lambda: set(kubelet.devices[GPU].values()) == {"Unhealthy"}, "none is healthy")
        node.simulator.load_driver()
        eventually(lambda: set(kubelet.devices[GPU].values()) == {"Healthy"}, "all are healthy")


@pytest.mark.parametrize("clears_folder", [True, False])
def test_a_kubelet_that_starts_again_gets_every_resource_again(
    node: Node, clears_folder: bool
) -> None:
    node.simulator.set_mig_mode(0, True)
    part = node.simulator.create_instance(0, "3g.20gb")

    def gets_everything() -> None:
        with node.kubelet(clears_folder=clears_folder) as kubelet:
            eventually(lambda: offered(kubelet) == sorted(node.uuids[1:]), "GPUs are offered")
            eventually(
                lambda: offered(kubelet, "nvidia.com/mig-3g.20gb") == [part.uuid],
                "the instance is offered",
            )

    with node.plugin():
        gets_everything()  # the plug-in was there first
        gets_everything()
        gets_everything()


def test_a_plugin_whose_socket_was_removed_makes_a_new_one(node: Node) -> None:
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet), "the GPUs are offered")
        for path in node.plugins.glob("gpu-sim-*.sock"):
            path.unlink()
        eventually(lambda: len(kubelet.registrations) == 2, "it registers again")
        eventually(lambda: offered(kubelet) == sorted(node.uuids), "every GPU is offered")


def test_a_kubelet_that_refuses_is_asked_again(node: Node) -> None:
    with node.kubelet(refuse=True) as kubelet, node.plugin():
        eventually(lambda: len(kubelet.registrations) > 2, "it is asked again")
        kubelet.refuse = False
        eventually(lambda: offered(kubelet) == sorted(node.uuids), "every GPU is offered")
    assert node.log.read_text().count("no such version") == 1


def test_what_is_in_the_way_of_its_socket_is_told_and_waited_for(node: Node) -> None:
    in_the_way = node.plugins / "gpu-sim-nvidia.com-gpu.sock"
    in_the_way.mkdir()
    with node.kubelet(clears_folder=False) as kubelet, node.plugin():
        eventually(lambda: "can't be served" in node.log.read_text(), "it says so")
        in_the_way.rmdir()
        eventually(lambda: offered(kubelet) == sorted(node.uuids), "every GPU is offered")


def test_a_socket_that_can_not_be_is_told_and_ends_nothing(node: Node) -> None:
    # The path of a socket has 107 bytes at most: enough for the kubelet's name, not for ours.
    room = 100 - len(f"{node.plugins}/") - len("/kubelet.sock")
    node.plugins = node.plugins / ("x" * room)
    node.plugins.mkdir()
    with node.kubelet(), node.plugin() as process:
        eventually(lambda: "can't be served" in node.log.read_text(), "it says so")
        node.log.write_text("")
        node.simulator.set_fault(1, "lost")
        eventually(lambda: "Unhealthy" in node.log.read_text(), "it goes on")
        assert process.poll() is None


def test_a_plugin_that_was_killed_goes_on_over_its_old_socket(node: Node) -> None:
    with node.kubelet() as kubelet:
        with node.plugin() as process:
            eventually(lambda: offered(kubelet), "the GPUs are offered")
            process.kill()
            eventually(lambda: not offered(kubelet), "they are gone with the plug-in")
        with node.plugin() as process:
            eventually(lambda: offered(kubelet) == sorted(node.uuids), "they are back")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        assert [path.name for path in node.plugins.iterdir()] == ["kubelet.sock"]


def test_a_container_sees_its_own_gpus_whatever_its_variables_say(node: Node) -> None:
    mine, other = node.uuids[1], node.uuids[0]
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet), "the GPUs are offered")
        given = kubelet.allocate(GPU, [mine])
    claims = {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "CUDA_VISIBLE_DEVICES": "0,1,2",
        "GPU_SIM_VISIBLE": ",".join(node.uuids),
    }
    with node.container(given, **claims) as client:
        assert client(UUIDS) == [mine]
        assert client("nvmlDeviceGetIndex(gpu(0))") == 0
        assert client("step(0, 1)") > 0
        assert client.error_of("gpu(1)") == pynvml.NVML_ERROR_INVALID_ARGUMENT
        assert (
            client.error_of(f"nvmlDeviceGetHandleByUUID({other!r})") == pynvml.NVML_ERROR_NOT_FOUND
        )
        assert (
            client.error_of("nvmlDeviceGetHandleByPciBusId('0000:07:00.0')")
            == pynvml.NVML_ERROR_NOT_FOUND
        )
        assert (
            client.error_of(
                f"check(library().gpuSimBeginWork({other.encode()!r}, None, ctypes.c_double(1),"
                " ctypes.byref(ctypes.c_ulonglong())))"
            )
            == pynvml.NVML_ERROR_NOT_FOUND
        )
    assert node.simulator.get("finished", mine) == 1


def test_a_container_gets_the_gpus_it_was_allocated_and_the_node_all(node: Node) -> None:
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet), "the GPUs are offered")
        given = kubelet.allocate(GPU, [node.uuids[2], node.uuids[0]])
    assert [mount.read_only for mount in given.mounts if "state" in mount.container_path] == [False]
    assert given.envs["NVIDIA_VISIBLE_DEVICES"].split(",") == sorted([node.uuids[2], node.uuids[0]])
    with node.container(given) as inside, NvmlClient(node.simulator.path) as outside:
        assert inside(UUIDS) == [node.uuids[0], node.uuids[2]]
        assert outside(UUIDS) == list(node.uuids)
        inside("step(1, 1)")
        processes = "[p.pid for p in nvmlDeviceGetComputeRunningProcesses(gpu(2))]"
        assert outside(processes) == [inside.process.pid]


def test_a_shared_gpu_is_offered_as_replicas_that_are_spread(node: Node) -> None:
    with node.kubelet() as kubelet, node.plugin("--replicas", "2"):
        every = sorted(f"{uuid}::{i}" for uuid in node.uuids for i in range(2))
        eventually(lambda: offered(kubelet) == every, "the replicas are offered")
        chosen = kubelet.preferred(GPU, every, 3)
        assert {device.partition("::")[0] for device in chosen} == set(node.uuids)
        both = [f"{node.uuids[0]}::{i}" for i in range(2)]
        with node.container(kubelet.allocate(GPU, both)) as client:
            assert client(UUIDS) == [node.uuids[0]]
        node.simulator.set_fault(0, "lost")
        eventually(
            lambda: [kubelet.devices[GPU][device] for device in both] == ["Unhealthy"] * 2,
            "both replicas are unhealthy",
        )


def test_an_instance_is_offered_by_profile_as_soon_as_it_is_made(node: Node) -> None:
    resource = "nvidia.com/mig-2g.10gb"
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet) == sorted(node.uuids), "every GPU is offered")
        node.simulator.set_mig_mode(0, True)
        parts = [node.simulator.create_instance(0, "2g.10gb").uuid for _ in range(2)]
        eventually(lambda: offered(kubelet, resource) == sorted(parts), "instances are offered")
        eventually(lambda: offered(kubelet) == sorted(node.uuids[1:]), "the GPU itself is not")
        given = kubelet.allocate(resource, parts[:1])
        with node.container(given, NVIDIA_VISIBLE_DEVICES="all") as client:
            assert client(UUIDS) == [node.uuids[0]]  # the board, of which it sees one part
            seen = "nvmlDeviceGetUUID(nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), {}))"
            assert client(seen.format(0)) == parts[0]
            assert client.error_of(seen.format(1)) == pynvml.NVML_ERROR_NOT_FOUND
        node.simulator.destroy_instance(0, parts[1])
        eventually(lambda: offered(kubelet, resource) == parts[:1], "one is left")


@pytest.mark.parametrize(("strategy", "whole"), [("none", True), ("single", False)])
def test_instances_can_be_offered_as_gpus_or_not_at_all(
    node: Node, strategy: str, whole: bool
) -> None:
    node.simulator.set_mig_mode(0, True)
    part = node.simulator.create_instance(0, "1g.5gb").uuid
    expected = sorted([node.uuids[0] if whole else part, *node.uuids[1:]])
    with node.kubelet() as kubelet, node.plugin("--mig-strategy", strategy):
        eventually(lambda: offered(kubelet) == expected, "as the strategy says")
        assert list(kubelet.devices) == [GPU]


def test_devices_can_be_named_by_their_device_files(node: Node) -> None:
    node.simulator.set("minor_number", 7, 1)
    node.simulator.set_mig_mode(0, True)
    part = node.simulator.create_instance(0, "2g.10gb")
    options = ("--device-ids", "device-file", "--mig-strategy", "single", "--replicas", "2")
    names = [f"nvidia0/gi{part.instance_id}", "nvidia2", "nvidia7"]
    with node.kubelet() as kubelet, node.plugin(*options):
        every = sorted(f"{name}/vgpu{i}" for name in names for i in range(2))
        eventually(lambda: offered(kubelet) == every, "every replica is offered")
        with node.container(kubelet.allocate(GPU, ["nvidia7/vgpu1"])) as client:
            assert client(UUIDS) == [node.uuids[1]]
        with node.container(kubelet.allocate(GPU, [f"{names[0]}/vgpu0"])) as client:
            assert client(UUIDS) == [node.uuids[0]]
            seen = "nvmlDeviceGetUUID(nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), 0))"
            assert client(seen) == part.uuid


def test_a_machine_made_anew_is_offered_in_place_of_the_old_one(node: Node) -> None:
    with node.kubelet() as kubelet, node.plugin("--resource", "nvidia.com/gpu.shared"):
        resource = "nvidia.com/gpu.shared"
        eventually(lambda: offered(kubelet, resource) == sorted(node.uuids), "the old ones")
        made = create_state(node.simulator.path, ["H100"], seed=5)
        eventually(lambda: offered(kubelet, resource) == list(made.uuids()), "the new one")


def test_a_device_that_is_not_offered_is_refused(node: Node) -> None:
    with node.kubelet() as kubelet, node.plugin():
        eventually(lambda: offered(kubelet), "the GPUs are offered")
        with pytest.raises(grpc.RpcError) as refused:
            kubelet.allocate(GPU, ["GPU-of-another-node"])
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_without_a_machine_the_plugin_says_what_to_do_and_ends(node: Node) -> None:
    node.simulator.path.unlink()
    with node.plugin() as process:
        assert process.wait(60) == 1
    assert "make them with `gpu-sim create`" in node.log.read_text()
