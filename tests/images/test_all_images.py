"""What holds for each image: who it runs as, what it says of itself, and what is not in it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.images.containers import Container, Image, Runc
from tools.images.build import TARGETS

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65532

TOOLS = {"cc", "gcc", "g++", "clang", "ld", "make", "cargo", "go", "git", "uv", "zig", "hatchling"}
LEFTOVERS = {".git", ".cache", ".bash_history", ".python_history", ".wget-hsts", "uv_cache.json"}
BUILT_IN = {"tools", "src", "wheels", "root-of-image"}

ImageOf = Callable[[str], Image]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(target: str, image_of: ImageOf) -> Image:
    return image_of(target)


def test_only_the_agent_is_root(target: str, image: Image) -> None:
    expected = 0 if target == "agent" else NOBODY

    assert image.user == (expected, expected)


@pytest.mark.parametrize("program", ["zeus-operator", "zeus-agent"])
def test_programs_run_as_the_images_user(program: str, image_of: ImageOf, runc: Runc) -> None:
    image = image_of(program.removeprefix("zeus-"))
    ask = ["python", "-c", "import os; print(os.getuid(), os.getgid())"]

    done = runc.run(Container(image, command=ask))

    assert done.output.split() == [str(number) for number in image.user]


def test_labels_say_what_it_is(target: str, image: Image) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in image.labels.items()
        if name.startswith("org.opencontainers.image.")
    }

    assert set(labels) == {"title", "description", "licenses", "version", "revision"}
    assert labels["title"].startswith(f"zeus-{target}")
    assert "Apache-2.0" in labels["licenses"]
    assert labels["version"] == version
    assert labels["revision"] not in ("", "unknown")


def test_nothing_that_built_it_is_in_it(image: Image) -> None:
    paths = list(_paths(image.root))
    programs = {path.name for path in paths if path.parent.name in ("bin", "sbin")}

    assert programs
    assert not programs & TOOLS
    assert not {path.name for path in paths} & LEFTOVERS
    assert not {path.name for path in image.root.iterdir()} & BUILT_IN
    assert not list((image.root / "tmp").glob("*"))


def test_nothing_of_the_machine_that_built_it_is_in_it(image: Image) -> None:
    ours = [image.root / "opt", image.root / "licenses"]
    traces = [str(REPOSITORY).encode(), os.fsencode(Path.home()) + b"/.cache"]
    found = [
        path
        for folder in ours
        for path in _paths(folder)
        if path.is_file() and any(trace in path.read_bytes() for trace in traces)
    ]

    assert found == []


def test_nobody_may_change_what_runs(image: Image) -> None:
    writable = [
        path
        for path in _paths(image.root / "opt")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]

    assert writable == []


def test_a_program_has_the_packages_of_its_own(image_of: ImageOf) -> None:
    def packages(target: str) -> set[str]:
        ours = {"zeus_runtime", "zeus_operator", "zeus_agent", "gpu_simulator"}
        (site,) = image_of(target).root.glob("opt/venv/lib/python3*/site-packages")
        return {path.name for path in site.iterdir()} & ours

    assert packages("operator") == {"zeus_operator", "zeus_runtime"}
    assert packages("agent") == {"zeus_agent", "gpu_simulator", "zeus_runtime"}


def test_python_finds_everything_compiled(image_of: ImageOf, runc: Runc) -> None:
    # A read-only file system can't keep what would be compiled at each start.
    code = "import zeus_runtime.protocol as p; print(p.__cached__)"
    for target in ("operator", "agent"):
        image = image_of(target)
        done = runc.run(Container(image, command=["python", "-c", code]))
        assert (image.root / done.output.strip().lstrip("/")).is_file()


def _paths(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(root) / name
