"""The daemon zeusd, as it is published, takes the simulated GPUs for real ones."""

from __future__ import annotations

from pathlib import Path

from gpu_simulator import create_state
from tests.peers.daemon import running_zeusd


def test_it_finds_the_gpus_and_sets_a_limit_over_its_socket(
    zeusd_program: Path, folder: Path
) -> None:
    simulator = create_state(folder / "gpus", ["V100", "A40"])
    with running_zeusd(zeusd_program, simulator.path, folder) as daemon:
        status, found = daemon.ask("GET", "/discover")
        assert status == 200
        names = [gpu["name"] for gpu in found["gpus"]]
        assert names == ["Tesla V100-PCIE-16GB", "NVIDIA A40"]
        assert daemon.set_power_limit(1, 180) == 200
        assert [simulator.power_limit_watts(gpu) for gpu in (0, 1)] == [250, 180]


def test_a_limit_that_the_driver_refuses_is_refused(zeusd_program: Path, folder: Path) -> None:
    simulator = create_state(folder / "gpus", ["V100"])
    with running_zeusd(zeusd_program, simulator.path, folder) as daemon:
        assert daemon.set_power_limit(0, 5000) >= 400
        assert daemon.set_power_limit(7, 200) >= 400
        simulator.set_fault(0, "lost")
        assert daemon.set_power_limit(0, 200) >= 400
        simulator.clear_fault(0)
        assert daemon.set_power_limit(0, 200) == 200
        assert simulator.power_limit_watts(0) == 200


def test_it_reads_power_energy_limits_and_persistence_mode(
    zeusd_program: Path, folder: Path
) -> None:
    simulator = create_state(folder / "gpus", ["V100"], tick_seconds=0.001)
    with running_zeusd(zeusd_program, simulator.path, folder) as daemon:
        before = simulator.get("counter_joules", 0)
        energy = daemon.ask("GET", "/gpu/get_cumulative_energy", {"gpu_ids": 0})
        after = simulator.get("counter_joules", 0)
        assert energy[0] == 200
        assert before - 0.001 <= 1e-3 * energy[1]["0"]["energy_mj"] <= after
        power = daemon.ask("GET", "/gpu/get_power")
        assert power[1]["power_mw"] == {"0": 25_000}
        assert daemon.ask("GET", "/gpu/get_power_limit")[1] == {"0": {"power_limit_mw": 250_000}}
        turned_on = daemon.ask(
            "POST",
            "/gpu/set_persistence_mode",
            {"gpu_ids": 0, "enabled": "true", "block": "true"},
        )
        assert turned_on[0] == 200
        assert simulator.get("persistence", 0) == 1
