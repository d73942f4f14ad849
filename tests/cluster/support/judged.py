"""What a real API server says of an object, and how sentences and objects are compared."""

from __future__ import annotations

import re
from typing import Any

from tests.cluster.support.control_plane import ControlPlane, KubectlError


def dry_run(cluster: ControlPlane, text: str) -> str:
    return cluster.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", input=text)


def refusal(cluster: ControlPlane, text: str) -> str:
    """Return what kubectl says, or an empty text where the object is taken."""
    try:
        dry_run(cluster, text)
    except KubectlError as error:
        return str(error)
    return ""


def unquoted(sentence: str) -> str:
    """Return what the API server says without the value: an older one says "object" for any."""
    return re.sub(r'Invalid value: "[^"]*": ', "Invalid value: ", sentence)


def plain(sentence: str) -> str:
    """Return a sentence without what CEL can't say alike: a guess, and a list in its order."""
    without_guess = re.sub(r" \(did you mean \w+\?\)", "", sentence)
    return re.sub(r"allowed: \[?[0-9, ]{8,}\]?", "allowed: …", without_guess)


def left_out(given: Any, taken: Any, path: str = "spec") -> list[str]:
    """Return the paths of values in `given` that `taken` has not, or has otherwise."""
    if isinstance(given, dict) and isinstance(taken, dict):
        return [
            missing
            for name, value in given.items()
            for missing in left_out(value, taken.get(name), f"{path}.{name}")
        ]
    return [] if given == taken else [path]


def without_empty(value: Any) -> Any:
    """Return `value` without mappings that hold nothing."""
    if not isinstance(value, dict):
        return value
    fields = {name: without_empty(field) for name, field in value.items()}
    return {name: field for name, field in fields.items() if field != {}}
