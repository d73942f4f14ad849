"""The projected history as a document: versioned, deterministic, and read back as records.  Pure.

It holds the same records that the store gives, so that one implementation shows both.  What is
shown of them is computed by whoever reads; only what needs the *whole* history (savings, power
curves) is computed by the operator, because the oldest recurrences may not fit.

Not in it: the workload's template, which is large and may hold secrets; results and outputs of
runs.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zeus_operator.records import JobRecord, RecurrenceRecord
from zeus_operator.relearning import StoredObservation
from zeus_operator.report.findings import Findings

VERSION = 1
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
"""Anybody with the right to may have put anything there; ours unpack to a few MiB."""

_NO_WORKLOAD: dict[str, Any] = {"template": {"spec": {}}}

Document = dict[str, Any]


class UnreadableHistory(Exception):  # noqa: N818 - a state of the object, no fault of the caller
    """It is no history that this program can read; the text says why."""


@dataclass(frozen=True)
class LeftOut:
    """What there was no room for, the oldest first.

    Args:
        recurrences: that are not there at all.
        reasons: recurrences that are there without the reasons of their decisions.
        details: recurrences with reasons, but without the numbers behind them.
        observations: of the whole history; without them no decision can be made again.
        curves: measured power limits, by batch size.
    """

    recurrences: int = 0
    reasons: int = 0
    details: int = 0
    observations: int = 0
    curves: int = 0

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return self != LeftOut()


@dataclass(frozen=True)
class ProjectedHistory:
    """What a ConfigMap holds of a job.

    Args:
        job: its spec has an empty workload.
        findings: of the whole history, whatever is left out.
        recurrences: ascending.
        observations: all, in the order of the store, or none.
    """

    job: JobRecord
    findings: Findings
    recurrences: tuple[RecurrenceRecord, ...]
    observations: tuple[StoredObservation, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)


_JOB = TypeAdapter(JobRecord)
_FINDINGS = TypeAdapter(Findings)
_RECURRENCE = TypeAdapter(RecurrenceRecord)
_RECURRENCES = TypeAdapter(tuple[RecurrenceRecord, ...])
_OBSERVATIONS = TypeAdapter(tuple[StoredObservation, ...])
_LEFT_OUT = TypeAdapter(LeftOut)


def recurrence_document(recurrence: RecurrenceRecord) -> Document:
    """Return one recurrence as JSON values; what has its default is left out."""
    found: Document = _RECURRENCE.dump_python(recurrence, mode="json", exclude_defaults=True)
    return found


def observation_documents(observations: Sequence[StoredObservation]) -> list[Document]:
    """Return observations as JSON values; what has its default is left out."""
    found: list[Document] = _OBSERVATIONS.dump_python(
        tuple(observations), mode="json", exclude_defaults=True
    )
    return found


def frame(job: JobRecord, findings: Findings) -> Document:
    """Return the document without recurrences and observations."""
    spec = {name: value for name, value in job.spec.items() if name != "workload"}
    # Handled requests are the operator's own affair.
    shown = replace(job, spec=spec, manifest_path="", handled={})
    found = _FINDINGS.dump_python(findings, mode="json")
    found["savings"]["compared"] = sorted(found["savings"]["compared"])
    return {
        "findings": found,
        "job": _JOB.dump_python(shown, mode="json"),
        "version": VERSION,
    }


def whole(
    framed: Document,
    recurrences: Sequence[Document],
    observations: Sequence[Document],
    left_out: LeftOut,
) -> Document:
    """Return the whole document."""
    return {
        **framed,
        "left_out": _LEFT_OUT.dump_python(left_out, mode="json"),
        "observations": observations,
        "recurrences": recurrences,
    }


def text_of(value: Any) -> bytes:
    """Return compact JSON, the same bytes for the same value."""
    try:
        text = _dumps(value)
    except ValueError:  # a number that is not finite: pydantic reads its name back
        text = _dumps(_named(value))
    return text.encode("ascii")


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    return value


def packed(document: Document) -> bytes:
    """Return the document as it is stored.  No time is in it, so that nothing changes by itself."""
    return gzip.compress(text_of(document), 9, mtime=0)


def read(data: bytes) -> ProjectedHistory:
    """Return what `packed` has packed.

    Raises:
        UnreadableHistory: it is broken, or of a newer release.
    """
    document = _unpacked(data)
    version = document.get("version")
    if not isinstance(version, int) or version < 1:
        raise UnreadableHistory("it has no version")
    if version > VERSION:
        raise UnreadableHistory(
            f"it has version {version} and this program reads up to {VERSION}: use the "
            "kubectl-zeus of the operator's release"
        )
    try:
        job = document["job"]
        spec = {**job["spec"], "workload": _NO_WORKLOAD}
        return ProjectedHistory(
            job=_JOB.validate_python({**job, "spec": spec}),
            findings=_FINDINGS.validate_python(document["findings"]),
            recurrences=_RECURRENCES.validate_python(document["recurrences"]),
            observations=_OBSERVATIONS.validate_python(document["observations"]),
            left_out=_LEFT_OUT.validate_python(document["left_out"]),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UnreadableHistory(f"it is broken at {where or 'its top'}: {first['msg']}") from None
    except (KeyError, TypeError) as error:
        raise UnreadableHistory(f"it is broken: {error!r}") from None


def _unpacked(data: bytes) -> Mapping[str, Any]:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise UnreadableHistory(f"it is not compressed as it has to be: {error}") from None
    if unpacker.unconsumed_tail:
        raise UnreadableHistory(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
    if not unpacker.eof:
        raise UnreadableHistory("its end is missing")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableHistory("it is no JSON") from None
    if not isinstance(document, dict):
        raise UnreadableHistory("it is no JSON object")
    return document
