"""What the device plug-in offers for given GPUs, and which devices it prefers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_simulator import MigInstance, create_state
from gpu_simulator.device_plugin.inventory import (
    DeviceIds,
    GpuFacts,
    MigStrategy,
    OfferedDevice,
    Settings,
    board_of,
    offered,
    preferred,
    read_facts,
)

PARTS = (MigInstance("MIG-x", "1g.5gb", 7), MigInstance("MIG-y", "3g.20gb", 1))
WHOLE = GpuFacts("GPU-a", 2, healthy=True, mig_enabled=False)
CUT = GpuFacts("GPU-b", 0, healthy=False, mig_enabled=True, instances=PARTS)
EMPTY = GpuFacts("GPU-c", 1, healthy=True, mig_enabled=True)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            MigStrategy.MIXED,
            {
                "nvidia.com/gpu": ["GPU-a"],
                "nvidia.com/mig-1g.5gb": ["MIG-x"],
                "nvidia.com/mig-3g.20gb": ["MIG-y"],
            },
        ),
        (MigStrategy.SINGLE, {"nvidia.com/gpu": ["GPU-a", "MIG-x", "MIG-y"]}),
        (MigStrategy.NONE, {"nvidia.com/gpu": ["GPU-a", "GPU-b", "GPU-c"]}),
    ],
)
def test_instances_are_offered_by_the_strategy(
    strategy: MigStrategy, expected: dict[str, list[str]]
) -> None:
    found = offered([WHOLE, CUT, EMPTY], Settings(mig_strategy=strategy))
    assert {name: [device.id for device in devices] for name, devices in found.items()} == expected


def test_every_replica_is_as_healthy_as_its_board() -> None:
    settings = Settings("nvidia.com/gpu.shared", replicas=2, mig_strategy=MigStrategy.NONE)
    assert offered([WHOLE, CUT], settings) == {
        "nvidia.com/gpu.shared": (
            OfferedDevice("GPU-a::0", healthy=True, board="GPU-a"),
            OfferedDevice("GPU-a::1", healthy=True, board="GPU-a"),
            OfferedDevice("GPU-b::0", healthy=False, board="GPU-b"),
            OfferedDevice("GPU-b::1", healthy=False, board="GPU-b"),
        )
    }


@pytest.mark.parametrize(
    ("strategy", "replicas", "expected"),
    [
        (MigStrategy.NONE, 1, {"nvidia2": "GPU-a", "nvidia0": "GPU-b", "nvidia1": "GPU-c"}),
        (
            MigStrategy.SINGLE,
            1,
            {"nvidia2": "GPU-a", "nvidia0/gi7": "MIG-x", "nvidia0/gi1": "MIG-y"},
        ),
        (
            MigStrategy.SINGLE,
            2,
            {
                **{f"nvidia2/vgpu{i}": "GPU-a" for i in range(2)},
                **{f"nvidia0/gi7/vgpu{i}": "MIG-x" for i in range(2)},
                **{f"nvidia0/gi1/vgpu{i}": "MIG-y" for i in range(2)},
            },
        ),
    ],
)
def test_devices_can_be_named_by_their_device_files(
    strategy: MigStrategy, replicas: int, expected: dict[str, str]
) -> None:
    settings = Settings("nvidia.com/gpu", replicas, strategy, DeviceIds.DEVICE_FILE)
    [devices] = offered([WHOLE, CUT, EMPTY], settings).values()
    assert {device.id: device.board for device in devices} == expected


def test_the_resource_is_there_when_no_gpu_is() -> None:
    assert offered([], Settings()) == {"nvidia.com/gpu": ()}


@pytest.mark.parametrize(
    ("fault", "value", "healthy"),
    [
        ("lost", 1, False),
        ("vanished", 1, False),
        ("error", 16, False),
        ("error", 999, True),
        ("no_permission", 1, True),
        ("throttle", 8, True),
    ],
)
def test_a_gpu_is_unhealthy_where_it_needs_a_reset(
    tmp_path: Path, fault: str, value: float, healthy: bool
) -> None:
    simulator = create_state(tmp_path / "gpus", ["V100"])
    simulator.set_fault(0, fault, value)
    assert [gpu.healthy for gpu in read_facts(simulator)] == [healthy]


def test_replicas_are_spread_over_boards_and_then_to_those_with_most_left() -> None:
    left = ["a::0", "b::0", "b::1", "c::0", "c::1", "c::2"]
    assert preferred(left, [], 3) == ["c::0", "b::0", "a::0"]
    assert preferred(left, ["c::2"], 2) == ["c::2", "b::0"]
    assert preferred(left, [], 5) == ["c::0", "b::0", "a::0", "c::1", "b::1"]
    files = ["nvidia0/vgpu0", "nvidia1/gi1/vgpu0", "nvidia1/gi1/vgpu1", "nvidia1/gi2/vgpu0"]
    assert preferred(files, [], 3) == [files[1], files[0], files[3]]


IDS = st.builds("{}::{}".format, st.sampled_from("abcd"), st.integers(0, 5))


@given(available=st.sets(IDS, max_size=12), data=st.data())
def test_a_choice_has_the_size_that_was_asked_and_only_what_is_there(
    available: set[str], data: st.DataObject
) -> None:
    must = data.draw(st.lists(st.sampled_from(sorted(available)), unique=True)) if available else []
    size = data.draw(st.integers(len(must), max(len(must), len(available))))
    chosen = preferred(sorted(available), must, size)
    assert len(chosen) == len(set(chosen)) == size
    assert set(must) <= set(chosen) <= available
    if not must:
        boards = [board_of(device) for device in chosen]
        assert len(set(boards)) == min(size, len({board_of(device) for device in available}))
