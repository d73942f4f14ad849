"""The ConfigMap beside a ZeusJob that holds its projected history.  Pure."""

from __future__ import annotations

import base64
import enum
import hashlib
from collections.abc import Mapping
from typing import Any

from zeus_operator import names

SUFFIX = "-zeus-history"
KEY = "history.json.gz"
"""In `binaryData`."""
MAX_NAME = 253
EMPTIED = "emptied"
"""In the place of a digest: the operator is set to write no history."""

Manifest = dict[str, Any]


class Whose(enum.Enum):
    """To whom a ConfigMap of the name belongs."""

    OURS = "ours"
    FORMER = "former"  # a ZeusJob that had the name before; the garbage collector takes it
    STRANGER = "stranger"


def name_of(job_name: str) -> str:
    """Return the name of the ConfigMap, a function of the ZeusJob's.

    Names of ZeusJobs are shorter than this allows for; if one ever is not, a digest keeps them
    apart.
    """
    name = job_name + SUFFIX
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(job_name.encode()).hexdigest()[:16]
    kept = job_name[: MAX_NAME - len(SUFFIX) - len(digest) - 1].rstrip("-.")
    return f"{kept}-{digest}{SUFFIX}"


def manifest(
    namespace: str, job_name: str, job_uid: str, contents: bytes, made_of: str
) -> Manifest:
    """Return the ConfigMap as it is created.

    Args:
        made_of: digest of what `contents` were made of.
    """
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job_name,
        "uid": job_uid,
        "controller": True,
    }
    change = patch(job_name, job_uid, "", contents, made_of)
    metadata = {
        **change["metadata"],
        "name": name_of(job_name),
        "namespace": namespace,
        "ownerReferences": [owner],
    }
    del metadata["resourceVersion"]
    return {**change, "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def patch(
    job_name: str, job_uid: str, resource_version: str, contents: bytes, made_of: str
) -> Manifest:
    """Return the merge patch that brings a ConfigMap of ours up to date.

    Args:
        resource_version: that was seen: whoever has changed it since is not written over.
    """
    return {
        "metadata": {
            "resourceVersion": resource_version,
            "labels": {
                names.LABEL_JOB: job_name,
                names.LABEL_JOB_UID: job_uid,
                names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
            },
            "annotations": {names.ANNOTATION_HISTORY: made_of},
        },
        "binaryData": {KEY: base64.b64encode(contents).decode("ascii")},
    }


def emptying_patch(resource_version: str) -> Manifest:
    """Return the merge patch that takes the history out of a ConfigMap of ours.

    Args:
        resource_version: that was seen.
    """
    return {
        "metadata": {
            "resourceVersion": resource_version,
            "annotations": {names.ANNOTATION_HISTORY: EMPTIED},
        },
        "binaryData": {KEY: None},
    }


def whose(metadata: Mapping[str, Any], job_name: str, job_uid: str) -> Whose:
    """Return to whom a ConfigMap belongs: its controller says it, not its labels."""
    owner: Mapping[str, Any] = next(
        (each for each in metadata.get("ownerReferences") or () if each.get("controller")), {}
    )
    is_of_zeus = str(owner.get("apiVersion", "")).startswith(f"{names.GROUP}/")
    if not is_of_zeus or owner.get("kind") != names.KIND or owner.get("name") != job_name:
        return Whose.STRANGER
    return Whose.OURS if owner.get("uid") == job_uid else Whose.FORMER


def made_of(metadata: Mapping[str, Any]) -> str:
    """Return the digest of what a ConfigMap was made of; "": nobody says."""
    annotations = metadata.get("annotations") or {}
    return str(annotations.get(names.ANNOTATION_HISTORY, ""))
