"""Reading a ZeusJob from a file, with every mistake in it said at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zeus_operator.api.checks import problems
from zeus_operator.api.findings import findings
from zeus_operator.api.local_checks import local_problems
from zeus_operator.api.template import Problem
from zeus_operator.api.types import API_VERSION, KIND, ZeusJob
from zeus_operator.api.yaml_text import YamlError, load_documents

MAX_FILE_BYTES = 1 << 20  # an object in Kubernetes can't be larger either (etcd's limit)


class ManifestError(Exception):
    """A file does not hold a valid ZeusJob.

    Attributes:
        source: the file.
        problems: what is wrong, in the order of the file; each has `path` and `message`.
    """

    def __init__(self, source: Path, found: list[Problem]) -> None:
        super().__init__("\n".join(map(str, found)))
        self.source = source
        self.problems = found


@dataclass(frozen=True)
class LoadedManifest:
    """A valid ZeusJob and where it came from; its command runs in `directory`."""

    job: ZeusJob
    path: Path
    directory: Path


def load_manifest(path: Path | str, *, local: bool = True) -> LoadedManifest:
    """Read and check the ZeusJob in the file at `path`.

    Args:
        path: a YAML (or JSON) file with one ZeusJob.
        local: also check what running on this machine needs (the script exists).

    Raises:
        ManifestError: the file can't be read or is not valid; every finding is in it.
    """
    source = Path(path)
    resolved = source.absolute()
    raw = _document(source)
    try:
        job = ZeusJob.model_validate(raw)
    except ValidationError as error:
        raise ManifestError(source, findings(error, ZeusJob)) from None
    found = problems(job)
    if local and not found:
        found = local_problems(job, resolved.parent)
    if found:
        raise ManifestError(source, found)
    return LoadedManifest(job=job, path=resolved, directory=resolved.parent)


def _document(source: Path) -> Mapping[str, Any]:
    text = _text(source)
    try:
        documents = load_documents(text)
    except YamlError as error:
        where = f"{source}:{error.line}" if error.line else str(source)
        raise ManifestError(source, [Problem(where, f"can't be read: {error}")]) from None
    if len(documents) != 1:
        count = "no document" if not documents else f"{len(documents)} documents"
        raise ManifestError(
            source, [Problem(str(source), f"holds {count}; a file holds exactly one {KIND}")]
        )
    document = documents[0]
    if not isinstance(document, Mapping):
        raise ManifestError(source, [Problem(str(source), f"must hold a {KIND}, a mapping")])
    for field, expected in (("kind", KIND), ("apiVersion", API_VERSION)):
        given = document.get(field)
        if given != expected:
            shown = "is missing" if given is None else f"is {given!r}"
            raise ManifestError(source, [Problem(field, f"{shown}; it must be {expected}")])
    return document


def _text(source: Path) -> str:
    try:
        with source.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ManifestError(source, [Problem(str(source), f"can't be read: {reason}")]) from None
    if len(data) > MAX_FILE_BYTES:
        raise ManifestError(
            source, [Problem(str(source), f"is larger than {MAX_FILE_BYTES} bytes")]
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(
            source, [Problem(str(source), f"is not UTF-8 at byte {error.start}")]
        ) from None
