"""The folder in which the program keeps everything on one machine.

    <home>/postgres/        the embedded database (unless DATABASE_URL names another)
    <home>/runs/            one folder per attempt; see `executors.rundir`
    <home>/agent/           state, socket and log of the agent for real GPUs
    <home>/simulated/<id>/  a simulated GPU and the agent for it

It is for its owner alone (0700): outputs and manifests may hold secrets.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "ZEUS_HOME"
_SOCKET_PATH_MAX_BYTES = 90  # of 107: an agent first binds it under a longer, temporary name


class HomeError(Exception):
    """The folder can't be used; the text says what to change."""


@dataclass(frozen=True)
class Home:
    """Names of what is where.  Nothing is created before `create`."""

    root: Path

    @classmethod
    def find(cls, path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Home:
        """Return `path`, else ZEUS_HOME, else `zeus` in the user's folder for state (XDG)."""
        if path is not None:
            return cls(path.absolute())
        configured = environ.get(HOME_VARIABLE)
        if configured:
            return cls(Path(configured).absolute())
        state = environ.get("XDG_STATE_HOME")
        base = Path(state) if state else Path.home() / ".local" / "state"
        return cls(base.absolute() / "zeus")

    @property
    def postgres(self) -> Path:
        """Folder of the embedded database."""
        return self.root / "postgres"

    @property
    def runs(self) -> Path:
        """Folder of all executions."""
        return self.root / "runs"

    @property
    def agent(self) -> Path:
        """Folder of the agent for real GPUs."""
        return self.root / "agent"

    @property
    def simulated(self) -> Path:
        """Folder of the simulated GPUs."""
        return self.root / "simulated"

    def create(self) -> None:
        """Make the folder, for its owner alone.

        Raises:
            HomeError: it belongs to somebody else, or can't be made.
        """
        make_private(self.root)


def make_private(folder: Path) -> None:
    """Make `folder` with mode 0700, its parents included.

    Raises:
        HomeError: it belongs to somebody else, or can't be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise HomeError(f"{folder} belongs to another user; give your own with {HOME_VARIABLE}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise HomeError(
            f"{folder}: {error.strerror}; choose another with {HOME_VARIABLE}"
        ) from None


def socket_path(folder: Path, name: str) -> Path:
    """Return a path for a Unix socket that belongs to `folder` and is short enough.

    Every program that asks for the same folder gets the same path.

    Raises:
        HomeError: no private folder with a short enough path can be made.
    """
    inside = folder / name
    if len(os.fsencode(inside)) <= _SOCKET_PATH_MAX_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    private = Path(base) / f"zeus-{os.geteuid()}-{digest}"
    if private.is_symlink():  # others may write to the folder around it
        raise HomeError(f"{private} is a symbolic link; choose a shorter {HOME_VARIABLE}")
    make_private(private)
    if len(os.fsencode(private / name)) > _SOCKET_PATH_MAX_BYTES:
        raise HomeError(
            f"{private / name}: too long for a Unix socket ({_SOCKET_PATH_MAX_BYTES} bytes); "
            f"choose a shorter {HOME_VARIABLE}"
        )
    return private / name
