"""Which GPUs a local run gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpu_simulator import create_state, environment
from zeus_operator.local.gpu import (
    GpuChoice,
    GpuError,
    SimulatedGpuSettings,
    choose_gpus,
    visible_gpus,
)
from zeus_operator.local.home import Home

GPUS = (("GPU-aa11", "V100"), ("GPU-ab22", "V100"), ("GPU-bb33", "A40"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, GPUS),
        ("", ()),
        ("1", GPUS[1:2]),
        ("2,0", (GPUS[2], GPUS[0])),
        ("GPU-bb33", GPUS[2:]),
        ("GPU-b", GPUS[2:]),
        ("GPU-a", ()),  # names two
        ("0,7,1", GPUS[:1]),  # the first that names none ends the list
        ("0,0", GPUS[:1]),
        ("-1", ()),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(visible: str | None, expected) -> None:
    assert visible_gpus(GPUS, visible) == expected


def test_without_a_gpu_one_is_simulated_and_that_is_said(home: Home) -> None:
    gpus = choose_gpus(home, GpuChoice.AUTO, {})
    assert gpus.simulated
    assert len(gpus.uuids) == 1
    assert "figures are simulated" in gpus.notice
    assert all(model.endswith(" (simulated)") for model in gpus.models)


def test_the_simulated_gpu_keeps_its_limit_from_run_to_run(home: Home) -> None:
    from gpu_simulator import Simulator

    first = choose_gpus(home, GpuChoice.SIMULATED, {})
    Simulator(first.folder / "gpu.state").foreign_limit(0, 200.0)
    second = choose_gpus(home, GpuChoice.SIMULATED, {})
    assert second.uuids == first.uuids
    assert Simulator(second.folder / "gpu.state").power_limit_watts(0) == 200.0


def test_a_simulated_gpu_of_another_version_is_made_anew_and_that_is_said(home: Home) -> None:
    first = choose_gpus(home, GpuChoice.SIMULATED, {})
    (first.folder / "gpu.state").unlink()  # and not written over: this process still has it open
    (first.folder / "gpu.state").write_bytes(b"of another version")
    second = choose_gpus(home, GpuChoice.SIMULATED, {})
    assert second.uuids == first.uuids
    assert "made anew, since it was of another version" in second.notice
    assert "made anew" not in choose_gpus(home, GpuChoice.SIMULATED, {}).notice


def test_other_settings_are_another_machine(home: Home) -> None:
    first = choose_gpus(home, GpuChoice.SIMULATED, {})
    other = choose_gpus(home, GpuChoice.SIMULATED, {"ZEUS_SIMULATED_GPU": '{"models": ["A40"]}'})
    assert other.folder != first.folder
    assert "A40" in other.models[0]


@pytest.mark.parametrize("text", ["V100", "[]", '{"model": "V100"}', '{"models": ["K80"]}'])
def test_settings_that_make_no_gpu_are_one_sentence(home: Home, text: str) -> None:
    with pytest.raises(GpuError):
        choose_gpus(home, GpuChoice.SIMULATED, {"ZEUS_SIMULATED_GPU": text})


def test_asking_for_a_real_gpu_where_there_is_none_says_what_else_there_is(home: Home) -> None:
    with pytest.raises(GpuError, match="--gpu simulated or --gpu none"):
        choose_gpus(home, GpuChoice.REAL, {"CUDA_VISIBLE_DEVICES": ""})


def test_none_is_no_gpu_and_no_simulation(home: Home) -> None:
    gpus = choose_gpus(home, GpuChoice.NONE, {})
    assert (gpus.uuids, gpus.simulated) == ((), False)
    assert not home.simulated.exists()


def test_a_gpu_that_the_driver_shows_is_taken(tmp_path: Path) -> None:
    create_state(tmp_path / "state", models=("A100", "V100"))
    script = """
from pathlib import Path
from zeus_operator.local.gpu import GpuChoice, choose_gpus
from zeus_operator.local.home import Home
print(choose_gpus(Home(Path('unused')), GpuChoice.REAL, {'CUDA_VISIBLE_DEVICES': '1'}).models)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(tmp_path / "state", {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "V100" in done.stdout
    assert "A100" not in done.stdout


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert SimulatedGpuSettings.from_environment({}) == SimulatedGpuSettings()
