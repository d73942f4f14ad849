"""Every form in which the kubelet names a GPU."""

from __future__ import annotations

import pytest

from zeus_agent.cluster.device_ids import GpuDevice, Ignored, read_device

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
        ("nvidia.com/mig-1g.5gb", MIG, GpuDevice("", MIG)),
        ("nvidia.com/mig-1g.5gb.shared", f"{MIG}::1", GpuDevice("", MIG, is_replica=True)),
        ("nvidia.com/gpu", MIG, GpuDevice("", MIG)),  # MIG strategy "single"
        ("nvidia.com/mig-3g.20gb", LEGACY, GpuDevice(GPU, LEGACY)),
        ("nvidia.com/mig-3g.20gb", f"{LEGACY}::2", GpuDevice(GPU, LEGACY, is_replica=True)),
        ("nvidia.com/a100-80gb", GPU, GpuDevice(GPU)),  # renamed by an administrator
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
