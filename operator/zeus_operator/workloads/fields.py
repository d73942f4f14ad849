"""Reaching into a template of any shape: what has the wrong one is named with its path.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zeus_operator.api.problems import TemplateError


def mapping_in(parent: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    """Return the mapping `parent[key]`, made empty if there is none.

    Args:
        path: of `parent`, for the error.

    Raises:
        TemplateError: something else is there.
    """
    if parent.get(key) is None:
        parent[key] = {}
    found = parent[key]
    if not isinstance(found, dict):
        raise TemplateError(f"{path}.{key}", f"must be a mapping, not {found!r}")
    return found


def list_in(parent: dict[str, Any], key: str, path: str) -> list[Any]:
    """Return the list `parent[key]`, made empty if there is none.

    Raises:
        TemplateError: something else is there.
    """
    if parent.get(key) is None:
        parent[key] = []
    found = parent[key]
    if not isinstance(found, list):
        raise TemplateError(f"{path}.{key}", f"must be a list, not {found!r}")
    return found


def entries(parent: Mapping[str, Any], key: str, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, entry) of each mapping in the list `parent[key]`, if there is one.

    Raises:
        TemplateError: it is no list of mappings.
    """
    found = parent.get(key)
    if found is None:
        return
    if not isinstance(found, list):
        raise TemplateError(f"{path}.{key}", f"must be a list, not {found!r}")
    for index, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise TemplateError(f"{path}.{key}[{index}]", f"must be a mapping, not {entry!r}")
        yield f"{path}.{key}[{index}]", entry
