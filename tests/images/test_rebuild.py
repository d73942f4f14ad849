"""Building: nothing twice, and the same bytes from the same sources."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.images.build import LIST_NAME, Builder, Wishes


def test_what_is_built_is_not_built_again(builder: Builder) -> None:
    with builder.locked():
        first = builder.build("runtime", Wishes())
        second = builder.build("runtime", Wishes())

    assert second == replace(first, build_seconds=None)


def test_an_archive_says_what_a_pod_calls_its_image(builder: Builder, tmp_path: Path) -> None:
    with builder.locked():
        built = builder.build("runtime", Wishes(registry="example.org/zeus", tag="1"))
        facts = builder.export({"runtime": built}, tmp_path)

    listed = json.loads((tmp_path / LIST_NAME).read_text())["runtime"]
    assert built.reference == listed["reference"] == "example.org/zeus/runtime:1"
    assert listed["archive"] == "runtime.tar"
    assert facts["runtime"].layers == 1
    assert facts["runtime"].unpacked_bytes > facts["runtime"].download_bytes > 0


def test_an_archive_is_written_again_only_for_another_image(
    builder: Builder, tmp_path: Path
) -> None:
    archive = tmp_path / "runtime.tar"
    with builder.locked():
        built = builder.build("runtime", Wishes())
        before = builder.export({"runtime": built}, tmp_path)
        written = archive.stat().st_ino
        again = builder.export({"runtime": built}, tmp_path)
        same = archive.stat().st_ino == written
        other = builder.build("runtime", Wishes(tag="other"))
        builder.export({"runtime": other}, tmp_path)

    assert again == before
    assert same
    assert archive.stat().st_ino != written


@pytest.mark.full
@pytest.mark.parametrize("target", ["operator", "agent", "runtime"])
def test_the_same_sources_give_the_same_bytes(
    target: str, builder: Builder, tmp_path: Path
) -> None:
    # The example is left out: its torch comes as Debian has it on the day.
    with builder.locked():
        first = builder.build(target, Wishes())
        before = builder.export({target: first}, tmp_path / "first")
        labels = builder.buildah.configuration(first.name)["Labels"]
        # The first may be of an earlier commit with the same content, and says so.
        revision = labels["org.opencontainers.image.revision"]
        second = builder.build(target, Wishes(with_cache=False, revision=revision))
        after = builder.export({target: second}, tmp_path / "second")

    assert second.image_id == first.image_id
    assert after[target].digest == before[target].digest
