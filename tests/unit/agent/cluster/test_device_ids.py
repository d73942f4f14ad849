"""Every form in which the kubelet names a GPU."""

from __future__ import annotations

import pytest

from zeus_agent.cluster.device_ids import (
    GpuDevice,
    Ignored,
    may_move,
    read_claim,
    read_device,
)

GPU = "GPU-4d9f1d0a-6b7e-4c55-8a1e-0f3c2b1a9d77"
MIG = "MIG-9c1b7f2e-3d40-5a6b-9c8d-7e6f5a4b3c2d"
LEGACY = f"MIG-{GPU}/7/0"


@pytest.mark.parametrize(
    ("resource", "device_id", "device"),
    [
        ("nvidia.com/gpu", GPU, GpuDevice(GPU)),
        ("nvidia.com/gpu", f"{GPU}::0", GpuDevice(GPU, is_replica=True)),
        ("nvidia.com/gpu", f"{GPU}::17", GpuDevice(GPU, is_replica=True)),
        ("nvidia.com/gpu.shared", f"{GPU}::3", GpuDevice(GPU, is_replica=True)),
        ("nvidia.com/gpu.shared", GPU, GpuDevice(GPU, is_replica=True)),
        ("nvidia.com/mig-1g.5gb", MIG, GpuDevice(MIG, is_part=True)),
        (
            "nvidia.com/mig-1g.5gb.shared",
            f"{MIG}::1",
            GpuDevice(MIG, is_part=True, is_replica=True),
        ),
        ("nvidia.com/gpu", MIG, GpuDevice(MIG, is_part=True)),  # MIG strategy "single"
        ("nvidia.com/mig-3g.20gb", LEGACY, GpuDevice(GPU, is_part=True)),
        ("nvidia.com/mig-3g.20gb", f"{LEGACY}::2", GpuDevice(GPU, is_part=True, is_replica=True)),
        ("nvidia.com/a100-80gb", GPU, GpuDevice(GPU)),  # renamed by an administrator
        ("nvidia.com/gpu", "nvidia0", GpuDevice("nvidia0")),  # on GKE, as those that follow
        ("nvidia.com/gpu", "nvidia15", GpuDevice("nvidia15")),
        ("nvidia.com/gpu", "nvidia0/gi1", GpuDevice("nvidia0", is_part=True)),
        ("nvidia.com/gpu", "nvidia2/vgpu0", GpuDevice("nvidia2", is_replica=True)),
        ("nvidia.com/gpu", "nvidia2/gi13/vgpu47", GpuDevice("nvidia2", True, True)),
        ("nvidia.com/gpu.shared", "nvidia0", GpuDevice("nvidia0", is_replica=True)),
    ],
)
def test_a_device_of_nvidia_is_a_gpu_or_a_part_of_one(
    resource: str, device_id: str, device: GpuDevice
) -> None:
    assert read_device(resource, device_id) == device


@pytest.mark.parametrize(
    ("resource", "device_id"),
    [
        ("nvidia.com/gpu", ""),
        ("nvidia.com/gpu", "0"),
        ("nvidia.com/gpu", "GPU-"),
        ("nvidia.com/gpu", f"{GPU}::"),
        ("nvidia.com/gpu", f"{GPU}::x"),
        ("nvidia.com/gpu", f"{GPU}::0::0"),
        ("nvidia.com/gpu", f" {GPU}"),
        ("nvidia.com/gpu", f"{GPU}\n"),
        ("nvidia.com/gpu", f"MIG-{GPU}/7"),
        ("nvidia.com/gpu", f"MIG-{GPU}/7/0/0"),
        ("nvidia.com/gpu", "nvidia"),  # which Google's plug-in would take for a GPU
        ("nvidia.com/gpu", "nvidia00"),
        ("nvidia.com/gpu", "nvidia-1"),
        ("nvidia.com/gpu", "nvidia\u0661"),  # a digit, and none of a device file
        ("nvidia.com/gpu", "nvidia0\n"),
        ("nvidia.com/gpu", "/dev/nvidia0"),
        ("nvidia.com/gpu", "nvidia0::1"),
        ("nvidia.com/gpu", "nvidia0/"),
        ("nvidia.com/gpu", "nvidia0/gi"),
        ("nvidia.com/gpu", "nvidia0/vgpu1/gi1"),
        ("nvidia.com/gpu", "nvidia0/gi1/gi2"),
        ("nvidia.com/gpu", "nvidiactl"),
        ("amd.com/gpu", "nvidia0"),
        ("nvidia.com/GA102GL_A10", "0000:3b:00.0"),  # passed through to a virtual machine
        ("rdma/hca_shared_devices", "0"),
        ("amd.com/gpu", GPU),
        ("nvidia.community/gpu", GPU),
    ],
)
def test_anything_else_is_ignored_with_a_reason(resource: str, device_id: str) -> None:
    device = read_device(resource, device_id)
    assert isinstance(device, Ignored)
    assert (device.resource, device.device_id) == (resource, device_id)
    assert device.reason


def test_only_whole_gpus_and_legacy_mig_devices_name_their_board_themselves() -> None:
    assert GpuDevice(GPU).gpu_uuid == GPU
    assert GpuDevice(MIG, is_part=True).gpu_uuid == ""
    assert GpuDevice("nvidia0").gpu_uuid == ""


def test_the_number_of_a_device_file_may_come_to_be_another_boards_and_a_uuid_never() -> None:
    assert may_move("nvidia0")
    assert not may_move(MIG)
    assert not may_move(GPU)


@pytest.mark.parametrize(
    ("driver", "is_nvidias"),
    [("gpu.nvidia.com", True), ("compute-domain.nvidia.com", True), ("dra.example.com", False)],
)
def test_what_a_claim_has_given_is_ignored_with_its_driver(driver: str, is_nvidias: bool) -> None:
    claim = read_claim(driver)
    assert (claim.resource, claim.device_id) == (driver, "")
    assert claim.is_nvidias is is_nvidias
    assert "Dynamic Resource Allocation" in claim.reason
