"""Files that the simulation commands write: checked before the work, replaced as a whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from zeus_operator.cli.failures import WrongInput


def check_writable(option: str, path: Path, suffixes: Sequence[str] = ()) -> None:
    """Refuse a file that can't be written before minutes are spent on what goes into it.

    Args:
        option: that named it, for the message.
        path: the file.
        suffixes: how its name may end; empty: any way.

    Raises:
        WrongInput: it can't be written, or its name ends otherwise.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise WrongInput(f"{option} {path}: the name must end in {', '.join(suffixes)}")
    if path.is_dir():
        raise WrongInput(f"{option} {path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise WrongInput(f"{option} {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise WrongInput(f"{option} {path}: the folder {path.parent} can't be written to")


def write_whole(option: str, path: Path, write: Callable[[Path], None]) -> None:
    """Write a file such that a reader sees the old one or the whole new one.

    Args:
        option: that named it, for the message.
        path: the file.
        write: writes to the path it is given, whose name ends as `path` does.

    Raises:
        WrongInput: the file can't be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
        )
        os.close(descriptor)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WrongInput(f"{option} {path}: can't be written: {error.strerror}") from None
