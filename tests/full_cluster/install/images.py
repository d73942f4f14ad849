"""The images of this repository as archives, built if their content is new (minutes, once)."""

from __future__ import annotations

from pathlib import Path

from tests.images.containers import what_is_missing
from tools.images.build import TARGETS, Builder, Wishes

REPOSITORY = Path(__file__).resolve().parents[3]
_ARCHIVES = REPOSITORY / "build" / "images"

REGISTRY = "localhost/zeus"
"""Nobody serves it: nodes get the archives."""


def archives() -> dict[str, Path]:
    """Return the OCI archive of each target.

    Raises:
        AssertionError: this machine lacks a program; the text says which.
        ImagesError: one can't be built.
    """
    missing = what_is_missing()
    assert not missing, missing
    builder = Builder(REPOSITORY)
    with builder.locked():
        built = {target: builder.build(target, Wishes(registry=REGISTRY)) for target in TARGETS}
        builder.export(built, _ARCHIVES)
    return {target: _ARCHIVES / f"{target}.tar" for target in TARGETS}
