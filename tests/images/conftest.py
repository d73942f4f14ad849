"""The images, built once for the session if their content is new, and runc to run them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.images.containers import Image, Runc, mounted, what_is_missing
from tools.images.bases import make_base
from tools.images.build import Builder, Wishes

REPOSITORY = Path(__file__).resolve().parents[2]
FULL = "ZEUS_TEST_FULL"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"full: takes minutes; only with {FULL}=1 (make test-full)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("full") is not None and os.environ.get(FULL) != "1":
        pytest.skip(f"takes minutes; {FULL}=1 runs it")


@pytest.fixture(scope="session")
def builder() -> Builder:
    """Builds images.  A machine that can't is left out, but not in CI."""
    missing = what_is_missing()
    if missing and os.environ.get("CI") != "true":
        pytest.skip(missing)
    assert not missing, missing
    return Builder(REPOSITORY)


@pytest.fixture(scope="session")
def image_of(builder: Builder) -> Iterator[Callable[[str], Image]]:
    """Return the mounted image of a target; `base` is the one that operator and agent lie on."""
    with contextlib.ExitStack() as stack:
        made: dict[str, Image] = {}

        def image(target: str) -> Image:
            if target not in made:
                with builder.locked():
                    name = (
                        make_base(builder.buildah, REPOSITORY, "BASE_IMAGE", anew=False)
                        if target == "base"
                        else builder.build(target, Wishes()).name
                    )
                made[target] = stack.enter_context(mounted(builder.buildah, name))
            return made[target]

        yield image


@pytest.fixture
def operator_image(image_of: Callable[[str], Image]) -> Image:
    return image_of("operator")


@pytest.fixture
def agent_image(image_of: Callable[[str], Image]) -> Image:
    return image_of("agent")


@pytest.fixture
def runtime_image(image_of: Callable[[str], Image]) -> Image:
    return image_of("runtime")


@pytest.fixture
def example_image(image_of: Callable[[str], Image]) -> Image:
    return image_of("example")


@pytest.fixture
def plain_python_image(image_of: Callable[[str], Image]) -> Image:
    """An image with Python and nothing of ours."""
    return image_of("base")


@pytest.fixture
def runc(tmp_path: Path) -> Runc:
    folder = tmp_path / "containers"
    folder.mkdir()
    return Runc(folder)
