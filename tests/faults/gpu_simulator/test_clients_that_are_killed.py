"""Processes that die at any moment leave GPUs that the others can go on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_simulator import Simulator, create_state, environment
from tests.support.eventually import eventually
from tests.support.nvml_client import NvmlClient

# Sets limits and gives work as fast as it can, and tells of its progress.
BUSY_PROGRAM = """
import ctypes, os, sys
library = ctypes.CDLL("libnvidia-ml.so.1")
assert library.nvmlInit_v2() == 0
gpu, ticket, seconds = ctypes.c_void_p(), ctypes.c_ulonglong(), ctypes.c_double()
assert library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0
uuid = ctypes.create_string_buffer(96)
assert library.nvmlDeviceGetUUID(gpu, uuid, 96) == 0
while True:
    pid = os.fork()
    if pid == 0:
        for turn in range(10**9):
            library.nvmlDeviceSetPowerManagementLimit(gpu, 150000 if turn % 2 else 200000)
            if turn == 3:
                os.write(1, os.getpid().to_bytes(8, "little"))
            if turn % 64 == 0:
                library.gpuSimBeginWork(uuid, None, ctypes.c_double(8), ctypes.byref(ticket))
    os.waitpid(pid, 0)
"""


def test_work_of_a_killed_process_is_dropped_and_others_go_on(tmp_path: Path) -> None:
    simulator = create_state(tmp_path / "gpus", time_scale=1e5)
    with NvmlClient(simulator.path) as doomed, NvmlClient(simulator.path) as other:
        doomed("[begin(0, 64) for _ in range(5)]")  # days
        ticket = other("begin(0, 64)")
        assert simulator.get("queued", 0) == 6
        doomed.kill()
        eventually(lambda: simulator.get("queued", 0) == 1, "the dead process's work is dropped")
        simulator.set("time_scale", 1e-3)
        assert other(f"finish(0, {ticket})") > 0


def test_a_child_that_outlives_its_killed_parent_does_not_keep_its_work(tmp_path: Path) -> None:
    simulator = create_state(tmp_path / "gpus", time_scale=1e5)
    with NvmlClient(simulator.path) as parent:
        parent("begin(0, 64)")
        child = parent("os.fork() or (os.setsid(), os.read(os.pipe()[0], 1))")
        assert simulator.get("queued", 0) == 1
        parent.kill()
        try:
            eventually(lambda: simulator.get("queued", 0) == 0, "the parent's work is dropped")
            os.kill(child, 0)  # it still lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_works_under_its_own_name(tmp_path: Path) -> None:
    simulator = create_state(tmp_path / "gpus", time_scale=1e-3)
    with NvmlClient(simulator.path) as client:
        client("step(0, 8)")
        code = client("(os.fork() or os._exit(int(step(0, 8) <= 0))) and os.wait()[1]")
        assert code == 0
        assert client("step(0, 8)") > 0


def test_a_process_killed_with_the_lock_leaves_the_state_whole(tmp_path: Path) -> None:
    simulator = create_state(tmp_path / "gpus", time_scale=1e-3)
    busy = subprocess.Popen(
        [sys.executable, "-c", BUSY_PROGRAM],
        env={**os.environ, **environment(simulator.path)},
        stdout=subprocess.PIPE,
    )
    assert busy.stdout is not None
    energy = 0.0

    def one_more_death_with_the_lock() -> bool:
        nonlocal energy
        assert busy.stdout is not None
        victim = int.from_bytes(busy.stdout.read(8), "little")
        os.kill(victim, signal.SIGKILL)
        now = simulator.device(0)
        assert now.numbers["limit_watts"] in (150, 200)
        assert now.numbers["energy_joules"] >= energy
        assert now.uuid == Simulator(simulator.path).uuids()[0]
        energy = now.numbers["energy_joules"]
        return simulator.get("recoveries") >= 5

    try:
        eventually(one_more_death_with_the_lock, "five were killed while they held the lock")
    finally:
        busy.kill()
        busy.wait()
        busy.stdout.close()
    with NvmlClient(simulator.path) as client:
        client("nvmlDeviceSetPowerManagementLimit(gpu(0), 180000)")
        assert client("nvmlDeviceGetPowerManagementLimit(gpu(0))") == 180_000
        assert client("step(0, 8)") > 0


def test_a_machine_made_anew_is_seen_by_new_clients_and_leaves_old_ones_alone(
    tmp_path: Path,
) -> None:
    create_state(tmp_path / "gpus", ["V100"])
    with NvmlClient(tmp_path / "gpus") as old:
        create_state(tmp_path / "gpus", ["A40", "A40"])
        assert old("nvmlDeviceGetName(gpu(0))") == "Tesla V100-PCIE-16GB"
        with NvmlClient(tmp_path / "gpus") as new:
            assert new("nvmlDeviceGetCount()") == 2
        old("nvmlShutdown()")
        old("nvmlInit()")
        assert old("nvmlDeviceGetCount()") == 2


def test_more_clients_come_and_go_than_there_is_room_for_at_once(tmp_path: Path) -> None:
    simulator = create_state(tmp_path / "gpus", time_scale=1e-4)
    with NvmlClient(simulator.path) as client:
        for _ in range(8):  # 320 processes, 256 places
            client("[os.fork() or os._exit(int(step(0, 8) <= 0)) for _ in range(40)]")
            assert client("[os.wait()[1] for _ in range(40)]") == [0] * 40


def test_after_a_restart_of_the_machine_the_driver_is_fresh_and_no_work_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "gpus"
    limit = "nvmlDeviceGetPowerManagementLimit(gpu(0))"
    monkeypatch.setenv("GPU_SIM_BOOT_ID", "first")
    create_state(state, time_scale=1e5)
    with NvmlClient(state) as before:
        before("nvmlDeviceSetPersistenceMode(gpu(0), 1)")
        before("nvmlDeviceSetPowerManagementLimit(gpu(0), 150000)")
        before("begin(0, 64)")
    with NvmlClient(state) as same:
        assert same(limit) == 150_000
    monkeypatch.setenv("GPU_SIM_BOOT_ID", "second")
    with NvmlClient(state) as after:
        assert after(limit) == 250_000
        assert after("nvmlDeviceGetTotalEnergyConsumption(gpu(0))") < 1000
        assert after("nvmlDeviceGetPerformanceState(gpu(0))") == 8
        after("nvmlDeviceSetPowerManagementLimit(gpu(0), 160000)")
        with NvmlClient(state) as other:
            assert other(limit) == 160_000
