"""Container images as OCI archives, made without a container engine.

One layer, laid out as the OCI image specification says (image-layout, manifest, config), with the
annotation by which `ctr images import` names the image.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class ImageFile:
    """A file of an image, by its contents or as a link.

    Args:
        link: what it is a symbolic link to; then there are no contents.
    """

    content: bytes = b""
    mode: int = 0o644
    link: str = ""

    @classmethod
    def copy_of(cls, path: Path, mode: int = 0o755) -> ImageFile:
        """Take the contents of a file, links resolved."""
        return cls(path.read_bytes(), mode)


def write_oci_archive(
    archive: Path,
    image: str,
    files: Mapping[str, ImageFile],
    entrypoint: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Write an image with one layer.

    Args:
        archive: file to make.
        image: its name with a tag, e.g. "localhost/pause:1".
        files: by their path without a leading slash.
        entrypoint: of its containers.
        environment: of its containers.
    """
    layer = _layer(files)
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Entrypoint": list(entrypoint),
                "Env": [f"{name}={value}" for name, value in (environment or {}).items()],
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, layer)],
        }
    )
    named = {**_descriptor(_MANIFEST, manifest), "annotations": {"io.containerd.image.name": image}}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [named]}))
        for blob in (config, layer, manifest):
            _add(tar, f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)


def _layer(files: Mapping[str, ImageFile]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
        for folder in sorted(folders | {"tmp"}):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for path, file in sorted(files.items()):
            _add(tar, path, file.content, file.mode, file.link)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if link:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
        tar.addfile(entry)
        return
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
