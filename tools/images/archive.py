"""What an OCI archive says of its image."""

from __future__ import annotations

import gzip
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ArchiveFacts:
    """One image.

    Attributes:
        digest: of the manifest; what a registry calls it.
        layers: how many there are.
        download_bytes: of all layers, compressed.
        unpacked_bytes: of all layers, as archives of files.
    """

    digest: str
    layers: int
    download_bytes: int
    unpacked_bytes: int


def read_facts(archive: Path) -> ArchiveFacts:
    """Return the facts of the first image in an OCI archive."""
    with tarfile.open(archive) as tar:
        digest = _json(tar, "index.json")["manifests"][0]["digest"]
        layers = _json(tar, _blob(digest))["layers"]
        unpacked = sum(_unpacked_bytes(_open(tar, _blob(layer["digest"]))) for layer in layers)
    return ArchiveFacts(digest, len(layers), sum(layer["size"] for layer in layers), unpacked)


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _open(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file of the archive")
    return file


def _json(tar: tarfile.TarFile, name: str) -> Any:
    return json.load(_open(tar, name))


def _unpacked_bytes(compressed: IO[bytes]) -> int:
    total = 0
    with gzip.open(compressed) as file:
        while chunk := file.read(_CHUNK_BYTES):
            total += len(chunk)
    return total
