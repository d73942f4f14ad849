"""The output of a script: bounded on disk while it is written, and its end for people.

Standard library only: the shim imports this module and must start fast.
"""

from __future__ import annotations

import os
from pathlib import Path

TAIL_BYTES = 4096
TAIL_LINES = 40
_CHUNK_BYTES = 1 << 20


def earlier(path: Path) -> Path:
    """Return where the output from before `path` is, if it was more than `path` may hold."""
    return path.with_name(f"{path.name}.1")


def bound(path: Path, limit_bytes: int) -> bool:
    """Move what is in `path` to `earlier(path)` if it is more than `limit_bytes`.

    For a file that others write to, each in append mode: they go on at its new start.  It is
    copied and cut rather than renamed, since a script holds the file and not its name.  What is
    written between the two is lost, and of one that grew faster than this is called all but
    the newest `limit_bytes`.

    Returns:
        Whether it was.

    Raises:
        OSError: there is no space for the copy, or no such file.
    """
    with path.open("r+b") as source:
        size = os.fstat(source.fileno()).st_size
        if size <= limit_bytes:
            return False
        source.seek(size - limit_bytes)
        temporary = path.with_name(f".{path.name}.1")
        with temporary.open("wb") as copy:
            # Not to the end at any cost: a script may print faster than this copies.
            while copy.tell() < 2 * limit_bytes and (chunk := source.read(_CHUNK_BYTES)):
                copy.write(chunk)
        temporary.replace(earlier(path))
        source.truncate(0)
    return True


def tail(path: Path) -> str:
    """Return the last lines of an output: at most `TAIL_LINES` and `TAIL_BYTES`."""
    data = _end(path, TAIL_BYTES + 1)
    if len(data) <= TAIL_BYTES:
        data = _end(earlier(path), TAIL_BYTES + 1 - len(data)) + data
    was_cut = len(data) > TAIL_BYTES
    # PostgreSQL's text can't hold NUL.
    text = data[-TAIL_BYTES:].decode("utf-8", "replace").replace("\0", "\ufffd")
    lines = text.splitlines()
    if was_cut and len(lines) > 1:
        lines = lines[1:]
    return "\n".join(lines[-TAIL_LINES:])


def _end(path: Path, count: int) -> bytes:
    """Return the last `count` bytes of `path`; none if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - count))
            return file.read(count)
    except FileNotFoundError:
        return b""
