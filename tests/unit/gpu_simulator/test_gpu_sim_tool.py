"""The control tool: what it prints, what it changes, how it fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pynvml
import pytest

from gpu_simulator import UNTIL_CLEARED, Simulator
from gpu_simulator.control import main
from tests.support.nvml_client import NvmlClient


@pytest.fixture
def state(tmp_path: Path) -> str:
    path = str(tmp_path / "gpus")
    assert (
        main(["--state", path, "create", "--gpu", "V100", "--gpu", "A40", "--tick-ms", "20"]) == 0
    )
    return path


def test_create_makes_the_machine_that_was_asked_for(tmp_path: Path) -> None:
    path = str(tmp_path / "gpus")
    arguments = (
        "create --gpu H100 --gpu A100 --tick-ms 50 --noise 0.02 --workload bert "
        "--time-scale 0.5 --seed 7 --writable-by anyone"
    )
    assert main(["--state", path, *arguments.split()]) == 0
    simulator = Simulator(path)
    assert [gpu.model for gpu in simulator.devices()] == ["H100", "A100"]
    assert {gpu.workload for gpu in simulator.devices()} == {"bert"}
    numbers = ("tick_seconds", "noise", "time_scale", "seed", "writable_by")
    assert [simulator.get(name) for name in numbers] == [0.05, 0.02, 0.5, 7, 2]


def test_show_as_json_holds_everything_and_as_text_the_faults(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--state", state, "fault", "set", "--index", "1", "hang"])
    capsys.readouterr()
    main(["--state", state, "show", "-o", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["tick_seconds"] == 0.02
    assert [gpu["model"] for gpu in shown["gpus"]] == ["V100", "A40"]
    assert shown["gpus"][0]["limit_watts"] == 250
    assert shown["gpus"][1]["hang_seconds"] == "forever"
    main(["--state", state, "show"])
    text = capsys.readouterr().out
    assert "Tesla V100-PCIE-16GB" in text
    assert text.count("fault") == 1


def test_set_changes_one_gpu_or_all_and_the_machine(state: str) -> None:
    simulator = Simulator(state)
    main(["--state", state, "set", "--index", "1", "--limit", "180", "--workload", "bert"])
    assert [simulator.power_limit_watts(i) for i in (0, 1)] == [250, 180]
    assert [simulator.device(i).workload for i in (0, 1)] == ["shufflenetv2", "bert"]
    uuid = simulator.uuids()[0]
    main(["--state", state, "set", "--index", uuid, "--limit", "190", "--persistence", "on"])
    assert [simulator.get("persistence", i) for i in (0, 1)] == [1, 0]
    main(["--state", state, "set", "--limit", "200", "--tick-ms", "100", "--time-scale", "2"])
    assert [simulator.power_limit_watts(i) for i in (0, 1)] == [200, 200]
    assert simulator.get("tick_seconds") == 0.1
    assert simulator.get("time_scale") == 2


@pytest.mark.parametrize(
    ("words", "fault", "value"),
    [
        ("lost", "lost", 1),
        ("no-permission", "no_permission", 1),
        ("unsupported power-set,energy", "unsupported", 3),
        ("error 999", "error", 999),
        ("set-ignored", "set_ignored", 1),
        ("enforced-cap-watts 130", "enforced_cap_watts", 130),
        ("slow 0.01", "slow_seconds", 0.01),
        ("hang forever", "hang_seconds", UNTIL_CLEARED),
        ("vanished", "vanished", 1),
        ("throttle hw-slowdown,sw-thermal", "throttle", 0x28),
    ],
)
def test_every_fault_can_be_set_and_cleared(
    state: str, words: str, fault: str, value: float
) -> None:
    simulator = Simulator(state)
    assert main(["--state", state, "fault", "set", "--index", "0", *words.split()]) == 0
    found = simulator.device(0).faults
    assert list(found) == [fault]
    assert found[fault] == pytest.approx(value) or found[fault] > 1e200
    assert simulator.device(1).faults == {}
    assert main(["--state", state, "fault", "clear", words.split()[0]]) == 0
    assert simulator.device(0).faults == {}


def test_driver_reload_and_counter_reset_are_done_by_name(state: str) -> None:
    simulator = Simulator(state)
    main(["--state", state, "set", "--limit", "150"])
    main(["--state", state, "fault", "set", "--index", "0", "driver-reload"])
    assert [simulator.power_limit_watts(i) for i in (0, 1)] == [250, 150]
    assert main(["--state", state, "fault", "set", "counter-reset"]) == 0


def test_env_is_what_a_shell_needs_to_see_the_gpus(
    state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere/else")
    capsys.readouterr()
    main(["--state", state, "env"])
    script = capsys.readouterr().out + 'printf "%s\\n" "$LD_LIBRARY_PATH" "$GPU_SIM_STATE"'
    libraries, path = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folder, rest = libraries.split(":", 1)
    assert [entry.name for entry in Path(folder).iterdir()] == ["libnvidia-ml.so.1"]
    assert rest == "/somewhere/else"
    assert path == state
    with NvmlClient(Path(path)) as client:
        assert client("nvmlDeviceGetCount()") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("set --limit 5", "limit_watts=5 is out of range"),
        ("set --index 9 --limit 200", "no GPU 9: there are 2, from 0"),
        ("set --index GPU-x --limit 200", "no GPU GPU-x"),
        ("set --workload alexnet", "there are shufflenetv2, resnet18, resnet50, bert"),
        ("create --gpu B300", "there are V100"),
        ("create --tick-ms 0", "tick_seconds=0"),
        ("create --noise 2", "noise=2"),
        ("create --seed -1", "seed=-1"),
        ("fault set error", "error takes a number"),
        ("fault set hang soon", "hang-seconds takes a number, not 'soon'"),
        ("fault set unsupported everything", "unsupported takes some of power-set"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line_with_exit_code_1(
    state: str, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    capsys.readouterr()
    assert main(["--state", state, *words.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gpu-sim: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_missing_state_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPU_SIM_STATE", raising=False)
    assert main(["show"]) == 1
    assert "--state or $GPU_SIM_STATE" in capsys.readouterr().err
    monkeypatch.setenv("GPU_SIM_STATE", str(tmp_path / "absent"))
    assert main(["env"]) == 1
    assert "make them with `gpu-sim create`" in capsys.readouterr().err
    (tmp_path / "absent").write_text("something else")
    assert main(["show"]) == 1
    assert "no state of this version" in capsys.readouterr().err
    assert main(["--state", str(tmp_path / "no" / "folder"), "create"]) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.fixture
def cut(tmp_path: Path) -> str:
    path = str(tmp_path / "gpus")
    assert main(["--state", path, "create", "--gpu", "A100", "--gpu", "V100"]) == 0
    assert main(["--state", path, "mig", "on", "--index", "0"]) == 0
    return path


def test_instances_are_made_shown_and_removed(cut: str, capsys: pytest.CaptureFixture[str]) -> None:
    simulator = Simulator(cut)
    capsys.readouterr()
    assert main(["--state", cut, "mig", "create", "--index", "0", "3g.20gb", "1g.5gb"]) == 0
    made = capsys.readouterr().out.split()
    assert made == [found.uuid for found in simulator.instances(0)]
    main(["--state", cut, "show", "-o", "json"])
    gpus = json.loads(capsys.readouterr().out)["gpus"]
    assert [found["profile"] for found in gpus[0]["mig_instances"]] == ["3g.20gb", "1g.5gb"]
    assert gpus[1]["mig_instances"] == []
    main(["--state", cut, "show"])
    assert f"MIG 3g.20gb {made[0]}" in capsys.readouterr().out
    assert main(["--state", cut, "mig", "destroy", "--index", "0", made[0]]) == 0
    assert [found.uuid for found in simulator.instances(0)] == made[1:]
    assert main(["--state", cut, "mig", "destroy"]) == 0
    assert simulator.instances(0) == ()
    assert main(["--state", cut, "mig", "off"]) == 0
    assert simulator.get("mig", 0) == 0


def test_the_driver_is_unloaded_and_loaded_by_name(state: str) -> None:
    simulator = Simulator(state)
    main(["--state", state, "set", "--limit", "150", "--persistence", "on"])
    assert main(["--state", state, "driver", "unload"]) == 0
    with NvmlClient(Path(state), initialise=False) as client:
        assert client.error_of("nvmlInit()") == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        assert main(["--state", state, "driver", "load"]) == 0
        client("nvmlInit()")
    assert [simulator.power_limit_watts(i) for i in (0, 1)] == [250, 300]


def test_an_error_is_given_its_calls_and_its_count(state: str) -> None:
    words = "fault set --index 0 --scope reads --calls energy,limit-get --count 3 error 10"
    assert main(["--state", state, *words.split()]) == 0
    simulator = Simulator(state)
    names = ("error", "error_calls", "error_count", "scope")
    assert [simulator.get(name, 0) for name in names] == [10, 10, 3, 1]
    main(["--state", state, "fault", "clear", "error"])
    assert [simulator.get(name, 0) for name in names] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mig on --index 1", "Tesla V100-PCIE-16GB has no MIG"),
        ("mig create --index 1 1g.5gb", "MIG is off on GPU 1"),
        ("mig create --index 0 1g.10tb", "no MIG profile '1g.10tb'; there are 1g.5gb"),
        ("mig destroy --index 0 MIG-x", "no MIG instance MIG-x on GPU 0"),
        ("fault set throttle cold", "throttle takes some of user-clocks, hw-slowdown"),
        ("fault set --calls everything error 3", "--calls takes some of power-set"),
        ("device-plugin --replicas 0", "--replicas is at least 1"),
    ],
)
def test_what_can_not_be_cut_or_offered_is_said(
    cut: str, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    capsys.readouterr()
    assert main(["--state", cut, *words.split()]) == 1
    assert said in capsys.readouterr().err
