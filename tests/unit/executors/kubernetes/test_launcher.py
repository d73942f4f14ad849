"""The launcher that stands in front of the command of an image without the runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zeus_runtime

SCRIPT = Path(zeus_runtime.__file__).with_name("launch.sh")


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """Lay out a folder as the init container does, with a package that is found there only."""
    folder = tmp_path / "ze us"
    folder.mkdir()
    shutil.copy(SCRIPT, folder / "launch")
    (folder / "launch").chmod(0o755)
    (folder / "only_here.py").write_text("print('found')")
    return folder / "launch"


def run(launcher: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(launcher), *words],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_python_finds_the_packages_beside_the_launcher(launcher: Path) -> None:
    done = run(launcher, sys.executable, "-c", "import only_here")

    assert (done.returncode, done.stdout) == (0, "found\n"), done.stderr


def test_the_users_own_path_stays_behind_ours(launcher: Path) -> None:
    done = run(launcher, "/bin/sh", "-c", 'echo "$PYTHONPATH"', PYTHONPATH="/mine:/theirs")

    assert done.stdout == f"{launcher.parent}:/mine:/theirs\n"


def test_words_exit_code_and_process_are_those_of_the_command(launcher: Path) -> None:
    done = run(launcher, "/bin/sh", "-c", 'printf "<%s>" "$@"; exit 86', "sh", "a b", "", "$X")

    assert (done.returncode, done.stdout) == (86, "<a b><><$X>")
