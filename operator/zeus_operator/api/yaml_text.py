"""YAML as Kubernetes reads it: JSON's values only, no repeated keys, errors with their line."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import yaml

MAX_VALUES = 100_000
"""Of a document with its aliases written out; a file of the largest size has fewer."""

_JSON_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")
)


class YamlError(ValueError):
    """The text is not YAML; `line` counts from 1."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """SafeLoader of JSON's values: refuses others, and repeated keys; a date stays text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; PyYAML lets the errors of `int()` through without a line."""
        try:
            value = super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"not a value that can be read: {error}", node.start_mark
            ) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{value} is not a number that an API object can hold", node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; PyYAML itself would silently keep the last of two equal keys."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain word", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# A date in an annotation has to reach the API server as the text that it is.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# Bytes and sets are nothing that an API object can hold.
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag in _JSON_TAGS
}


def load_documents(text: str) -> list[Any]:
    """Return the documents in `text`, empty ones left out.

    Raises:
        YamlError: `text` is not YAML, with the line where reading it failed.
    """
    try:
        # _Loader is a SafeLoader: it builds plain values only.
        documents = [
            document for document in yaml.load_all(text, Loader=_Loader) if document is not None
        ]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(what, mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise YamlError(" ".join(str(error).split()), None) from None
    except RecursionError:
        raise YamlError("is nested too deeply", None) from None
    for document in documents:
        _refuse_endless(document)
    return documents


def _refuse_endless(document: Any) -> None:
    """Aliases may refer to what they stand in, or multiply a small file to gigabytes."""
    left = MAX_VALUES
    pending = [document]
    while pending:
        value = pending.pop()
        left -= 1
        if left < 0:
            raise YamlError(
                f"its aliases refer to themselves or stand for more than {MAX_VALUES:,} values",
                None,
            )
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
