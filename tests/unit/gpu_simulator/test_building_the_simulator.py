"""The library is built once, by whatever compiler there is, or says what is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_simulator import BuildError, build_library
from gpu_simulator.build import find_compiler


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPU_SIM_BUILD_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_library_is_built_once_and_lies_alone_in_its_folder(cache: Path) -> None:
    first = build_library()
    built = first.stat().st_mtime_ns
    assert build_library() == first
    assert first.stat().st_mtime_ns == built
    assert first.is_relative_to(cache)
    assert [path.name for path in first.parent.iterdir()] == ["libnvidia-ml.so.1"]


def test_processes_that_build_at_once_get_the_same_whole_library(cache: Path) -> None:
    program = (
        "import ctypes; from gpu_simulator import build_library; path = build_library();"
        "assert ctypes.CDLL(str(path)).gpuSimVersion() == 1; print(path)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(printed) == 1


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(
    cache: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(BuildError, match="no such flag"):
        build_library([str(broken)])
    assert not list(cache.rglob("*.so*"))


def test_a_compiler_that_is_not_there_is_named(cache: Path) -> None:
    with pytest.raises(BuildError, match="absent-cc"):
        build_library(["/nonexistent/absent-cc"])


def test_without_a_system_compiler_the_one_of_a_package_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if importlib.util.find_spec("ziglang") is not None:
        assert find_compiler() == [sys.executable, "-m", "ziglang", "cc"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match="pip install ziglang"):
        find_compiler()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_the_compiler_of_the_package_builds_a_library_that_works(cache: Path) -> None:
    library = build_library([sys.executable, "-m", "ziglang", "cc"])
    program = f"import ctypes; print(ctypes.CDLL({str(library)!r}).gpuSimVersion())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
