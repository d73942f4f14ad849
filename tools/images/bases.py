"""Base images, made from Debian's packages where there is no registry to fetch them from."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.images.buildah import Buildah, ImagesError
from tools.images.content import key_of

BASE_REPOSITORY = "localhost/zeus-base"
_RECIPE = "images/make_base.sh"


@dataclass(frozen=True)
class Base:
    """A Debian release with some packages."""

    suite: str
    packages: tuple[str, ...]


# What the images of a registry that stand in the Dockerfile have, too.
BASES = {
    "BASE_IMAGE": Base(
        "bookworm", ("ca-certificates", "netbase", "python3", "python3-venv", "tzdata")
    ),
    "EXAMPLE_BASE_IMAGE": Base("trixie", ("ca-certificates", "netbase", "tzdata")),
}


def base_name(root: Path, argument: str) -> str:
    """Return the name of the base for a build argument: its recipe's key is the tag."""
    base = BASES[argument]
    key = key_of(root, [_RECIPE], {"packages": " ".join(base.packages), "machine": machine()})
    return f"{BASE_REPOSITORY}:{base.suite}-{key}"


def make_base(buildah: Buildah, root: Path, argument: str, *, anew: bool) -> str:
    """Make the base image if it is not there, and return its name.

    Args:
        buildah: the store.
        root: the project.
        argument: the build argument that it is for.
        anew: make it though it is there, with the packages of today.

    Raises:
        ImagesError: debootstrap is missing or failed.
    """
    name = base_name(root, argument)
    if not anew and buildah.id_of(name) is not None:
        return name
    if shutil.which("debootstrap") is None:
        raise ImagesError(
            "no debootstrap to make a base image with: install it, on Debian and Ubuntu "
            f"`apt install debootstrap`, or name a base image: --base {argument}=IMAGE"
        )
    base = BASES[argument]
    with tempfile.TemporaryDirectory(prefix="zeus-base-") as folder:
        tree, archive = Path(folder) / "root", Path(folder) / "root.tar"
        _run(str(root / _RECIPE), base.suite, str(tree), *base.packages)
        _run("tar", "--create", f"--file={archive}", f"--directory={tree}", "--sort=name", ".")
        shutil.rmtree(tree)
        buildah.image_of_archive(archive, name)
    return name


def machine() -> str:
    """Return the name of this machine's architecture."""
    return os.uname().machine


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImagesError(f"{' '.join(command)} failed:\n{done.stderr[-4000:].strip()}")
