"""Kubernetes manifests as text: the same bytes for the same objects.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """SafeDumper that never writes an alias and indents lists, as people write manifests."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write equal objects out each time."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent the entries of a list below its name."""
        super().increase_indent(flow, False)


def manifest_text(objects: Sequence[Mapping[str, Any]], source: str, note: str = "") -> str:
    """Return `objects` as YAML documents, under lines that say where they come from.

    Args:
        source: what they are made from.
        note: one more line for the reader.
    """
    head = f"# Generated from {source} by `make docs`: change it there.\n"
    head += f"# {note}\n" if note else ""
    return head + "---\n".join(map(document_text, objects))


def document_text(item: Mapping[str, Any]) -> str:
    """Return one object as a YAML document."""
    return yaml.dump(dict(item), Dumper=_Dumper, sort_keys=False, width=98, allow_unicode=True)
