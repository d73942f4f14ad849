"""What a container gets so that it sees its own simulated GPUs, and no others.

The library lies where the loader looks by itself, so that no LD_LIBRARY_PATH of an image is
touched.  The state is writable: work is declared through it.  Beside it lies a read-only file
that names what the container may see; the library heeds it whatever variables say.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpu_simulator.build import LIBRARY_NAME, build_library
from gpu_simulator.state import STATE_VARIABLE

CONTAINER_DIRECTORY = "/run/gpu-simulator"
CONTAINER_STATE = f"{CONTAINER_DIRECTORY}/state"
CONTAINER_VIEW = f"{CONTAINER_DIRECTORY}/visible"
# The loader's own folders: Debian's and Ubuntu's first, then those of Fedora, RHEL and SUSE.
LIBRARY_DIRECTORIES = ("/usr/lib", "/usr/lib64")


@dataclass(frozen=True)
class ContainerMount:
    """A file of the host in a container."""

    host_path: str
    container_path: str
    read_only: bool


@dataclass(frozen=True)
class ContainerSetup:
    """What the kubelet adds to a container."""

    variables: dict[str, str]
    mounts: tuple[ContainerMount, ...]


class ContainerFiles:
    """Library and views beside the state, made as they are asked for.

    Args:
        state_path: of the machine's state.  The host must know its folder by this same path,
            since the container runtime mounts from there.

    Raises:
        BuildError: the library can't be built.
        OSError: the folder can't be written.
    """

    def __init__(self, state_path: Path) -> None:
        self._state = state_path.resolve()
        self._folder = self._state.parent / f"{self._state.name}.plugin"
        built = build_library()
        # By the key of the build: a running container keeps the library that it was given.
        self._library = self._folder / built.parent.parent.name / LIBRARY_NAME
        self._write(self._library, built)

    def setup(self, boards: Iterable[str]) -> ContainerSetup:
        """Return what shows a container some GPUs and MIG instances alone, by their UUIDs."""
        visible = sorted(set(boards))
        text = "".join(f"{uuid}\n" for uuid in visible)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        # Kept for good: the kubelet mounts it again when a container is restarted.
        view = self._folder / "views" / name
        self._write(view, text)
        library = str(self._library)
        return ContainerSetup(
            variables={
                STATE_VARIABLE: CONTAINER_STATE,
                "NVIDIA_VISIBLE_DEVICES": ",".join(visible),  # for programs that only look at it
            },
            mounts=(
                *(
                    ContainerMount(library, f"{folder}/{LIBRARY_NAME}", read_only=True)
                    for folder in LIBRARY_DIRECTORIES
                ),
                ContainerMount(str(self._state), CONTAINER_STATE, read_only=False),
                ContainerMount(str(view), CONTAINER_VIEW, read_only=True),
            ),
        )

    @staticmethod
    def _write(path: Path, content: str | Path) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Containers are set up in several threads at once: each writes a file of its own.
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.read_bytes() if isinstance(content, Path) else content.encode())
        Path(partial).chmod(0o644)
        Path(partial).rename(path)
