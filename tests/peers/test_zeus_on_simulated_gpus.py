"""The package `zeus`, as it is published, measures and sets limits on simulated GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_simulator import create_state
from tests.peers.daemon import running_zeusd
from tests.peers.peers import driver_environment
from tests.peers.zeus_program import run_zeus


def test_the_monitor_measures_what_the_gpu_has_used(zeus_interpreter: Path, folder: Path) -> None:
    simulator = create_state(
        folder / "gpus", ["V100", "A40"], tick_seconds=0.001, workload="resnet50", time_scale=0.1
    )
    seen = run_zeus(
        zeus_interpreter,
        """
monitor = ZeusMonitor(gpu_indices=[0, 1], sync_execution_with="cupy")
monitor.begin_window("epoch")
before = [energy(0), energy(1)]
work = sum(step(0, 128) for _ in range(10))
after = [energy(0), energy(1)]
measured = monitor.end_window("epoch")
print(json.dumps([measured.time, work, [measured.gpu_energy[i] for i in (0, 1)],
                  [b - a for a, b in zip(before, after)], len(gpus)]))
""",
        driver_environment(simulator.path, folder),
    )
    seconds, work, measured, true, count = seen
    assert count == 2
    assert seconds >= work
    assert measured == pytest.approx(true, rel=0.03)
    assert measured[0] > 2 * measured[1]  # one worked, the other did not


def test_the_limit_optimizer_tries_the_limits_and_keeps_one(
    zeus_interpreter: Path, folder: Path
) -> None:
    simulator = create_state(
        folder / "gpus", ["V100"], tick_seconds=0.001, workload="resnet50", time_scale=0.02
    )
    tried, chosen, left = run_zeus(
        zeus_interpreter,
        """
from zeus.optimizer.power_limit import Done, Energy, GlobalPowerLimitOptimizer
monitor = ZeusMonitor(gpu_indices=[0], sync_execution_with="cupy")
optimizer = GlobalPowerLimitOptimizer(
    monitor, optimum_selector=Energy(), warmup_steps=1, profile_steps=5)
tried = []
optimizer.on_epoch_begin()
for _ in range(200):
    optimizer.on_step_begin()
    if isinstance(optimizer.state, Done):
        break
    if not tried or tried[-1] != limit(0):
        tried.append(limit(0))
    step(0, 256)
    optimizer.on_step_end()
print(json.dumps([tried, optimizer.state.optimal_power_limit, limit(0)]))
""",
        driver_environment(simulator.path, folder),
    )
    assert tried == [1000 * watts for watts in range(250, 99, -25)]
    assert left == chosen < 250_000
    assert simulator.get("persistence", 0) == 1


def test_limits_go_through_zeusd_where_there_is_one(
    zeus_interpreter: Path, zeusd_program: Path, folder: Path
) -> None:
    simulator = create_state(folder / "gpus", ["V100"])
    with running_zeusd(zeusd_program, simulator.path, folder) as daemon:
        environ = driver_environment(simulator.path, folder)
        environ["ZEUSD_SOCK_PATH"] = str(daemon.socket)
        kind, limit = run_zeus(
            zeus_interpreter,
            """
gpus.set_power_management_limit(0, 170000)
print(json.dumps([type(gpus.gpus[0]).__name__, limit(0)]))
""",
            environ,
        )
    assert "Zeusd" in kind
    assert limit == 170_000
    assert simulator.power_limit_watts(0) == 170


def test_without_permission_it_says_so_and_sets_nothing(
    zeus_interpreter: Path, folder: Path
) -> None:
    simulator = create_state(folder / "gpus", ["V100"])
    simulator.set("no_permission", 1)
    error = run_zeus(
        zeus_interpreter,
        """
try:
    gpus.set_power_management_limit(0, 170000)
except Exception as error:
    print(json.dumps(type(error).__name__))
""",
        driver_environment(simulator.path, folder),
    )
    assert error == "ZeusGPUNoPermissionError"
    assert simulator.power_limit_watts(0) == 250
