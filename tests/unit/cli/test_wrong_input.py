"""Wrong files and options: one message with the path and what is allowed, and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support import manifests
from zeus_operator.cli.main import main


def zeusctl(*arguments: str | Path, home: Path) -> Result:
    environment = {"ZEUS_HOME": str(home), "DATABASE_URL": None}
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


@pytest.mark.parametrize("mistake", manifests.WRONG_FILES)
def test_a_wrong_file_gives_one_message_and_exit_code_2(tmp_path: Path, mistake: str) -> None:
    text, path, allowed = manifests.WRONG_FILES[mistake]

    result = zeusctl("run", manifests.write(tmp_path, text), home=tmp_path / "home")

    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    assert allowed in lines[0]
    assert not (tmp_path / "home").exists()  # nothing is made for a file that can't be run


def test_the_installed_program_does_the_same(tmp_path: Path) -> None:
    path = manifests.write(tmp_path, manifests.changed("objective:", "objectve:"))
    program = Path(sys.executable).parent / "zeusctl"

    ran = subprocess.run([program, "run", path], capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert ran.stderr.startswith("spec.objectve: is not a field here (did you mean objective?)")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.yaml"), "missing.yaml: can't be read: No such file or directory"),
        (("run",), "Missing argument 'FILE'"),
        (("run", "x.yaml", "--recurrences", "0"), "0 is not in the range"),
        (("run", "x.yaml", "--policy", "magic"), "'structured', 'zeus'"),
        (("run", "x.yaml", "--gpu", "maybe"), "'auto', 'real', 'simulated', 'none'"),
        (("run", "x.yaml", "--once", "--recurrences", "3"), "keep one"),
        (("replay", "digits"), "Missing option '--policy'"),
        (("status", "-o", "xml"), "'text', 'json'"),
        (("stats",), "No such command 'stats'"),
    ],
)
def test_wrong_options_are_said_with_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)

    result = zeusctl(*arguments, home=tmp_path / "home")

    assert result.exit_code == 2
    assert message in result.stderr


def test_a_report_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = tmp_path / "file" / "report.html"

    result = zeusctl("run", manifests.write(tmp_path), "--report", report, home=tmp_path / "home")

    assert result.exit_code == 2
    assert result.stderr.startswith(f"{report}: the report can't be written: ")
    assert not (tmp_path / "home").exists()


def test_control_runs_that_would_never_come_are_refused(tmp_path: Path) -> None:
    path = manifests.write(tmp_path, manifests.with_spec('schedule: "0 2 * * *"'))

    result = zeusctl("run", path, "--control", "3", home=tmp_path / "home")

    assert result.exit_code == 2
    assert "--recurrences N" in result.stderr
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_used_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file is in the way")

    result = zeusctl("status", home=tmp_path / "home")

    assert result.exit_code == 2
    assert "ZEUS_HOME" in result.stderr


def test_a_real_gpu_is_not_replaced_by_a_simulated_one(tmp_path: Path, database: str) -> None:
    path = manifests.write(tmp_path)
    # A library that has no GPU, on a machine that may have some.
    environment = {
        "ZEUS_HOME": str(tmp_path / "home"),
        "DATABASE_URL": database,
        "CUDA_VISIBLE_DEVICES": "",
    }

    result = CliRunner().invoke(main, ["run", str(path), "--gpu", "real"], env=environment)

    assert result.exit_code == 2
    assert "no NVIDIA GPU found" in result.stderr
