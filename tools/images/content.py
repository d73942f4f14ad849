"""Keys of content: the same files, made in the same way, have the same key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_KEY_LENGTH = 16


def key_of(root: Path, sources: Iterable[str], facts: Mapping[str, str]) -> str:
    """Return the key of files and folders under `root`, and of what else decides the result.

    Names, contents and whether a file may be run count; times and owners do not, as builds level
    them.  What Python leaves behind is passed over, as .dockerignore does.

    Raises:
        FileNotFoundError: one of `sources` is missing.
    """
    digest = hashlib.sha256()
    for name, value in sorted(facts.items()):
        digest.update(f"{name}={value}\0".encode())
    for path in sorted({file for source in sources for file in _files(root / source)}):
        executable = os.access(path, os.X_OK)
        digest.update(f"{path.relative_to(root)}\0{executable}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:_KEY_LENGTH]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is named in the Dockerfile and missing")
    if path.is_file():
        return [path]
    return [
        file
        for file in path.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"
    ]
