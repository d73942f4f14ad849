"""Turns pydantic's JSON schema into the structural schema that Kubernetes asks for.  Pure.

What Kubernetes wants otherwise than pydantic says it (apiextensions.k8s.io/v1, "Specifying a
structural schema"): no references, no `anyOf` with null (an optional field is merely not
required), no titles, `const` as an `enum`, no `additionalProperties: false` (unknown fields are
pruned, or refused by field validation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)
_INT32_MAX = (1 << 31) - 1


class SchemaError(ValueError):
    """A model says something that a structural schema can't; the text names the field."""


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the structural schema of `model`, references inlined.

    Raises:
        SchemaError: a field is of no type that Kubernetes takes, or a float.
    """
    document = model.model_json_schema(by_alias=True)
    return _node(document, document.get("$defs", {}), model.__name__)


def _node(node: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    node = _resolved(node, definitions)
    if "const" in node:
        node = {**node, "enum": [node["const"]]}
    if node.get("type") not in ("object", "array", "string", "integer", "boolean"):
        raise SchemaError(f"{path}: a field of type {node.get('type')} can't be in the API")
    # An empty default would only make the API server write what is not there anyway.
    result: Schema = {key: node[key] for key in _KEPT if node.get(key) not in (None, [])}
    if node["type"] == "integer":
        result["format"] = "int32" if node.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    if node["type"] == "array":
        result.setdefault("x-kubernetes-list-type", "atomic")
        result["items"] = _node(node["items"], definitions, f"{path}[]")
    if node["type"] == "object":
        _fill_object(result, node, definitions, path)
    return result


def _fill_object(
    result: Schema, node: Mapping[str, Any], definitions: Mapping[str, Any], path: str
) -> None:
    values = node.get("additionalProperties")
    if "properties" in node:
        result["required"] = list(node.get("required", ()))
        result["properties"] = {
            name: _property(field, definitions, f"{path}.{name}", name in result["required"])
            for name, field in node["properties"].items()
        }
        if not result["required"]:
            del result["required"]
    elif isinstance(values, Mapping):
        result["additionalProperties"] = _node(values, definitions, f"{path}.*")
    elif not node.get("x-kubernetes-preserve-unknown-fields"):
        raise SchemaError(f"{path}: an object without known fields can't be in the API")


def _property(
    field: Mapping[str, Any], definitions: Mapping[str, Any], path: str, required: bool
) -> Schema:
    schema = _node(field, definitions, path)
    nullable = any(option.get("type") == "null" for option in field.get("anyOf", ()))
    if not required and not nullable and "required" not in schema:
        # The API server fills in the defaults of fields only where their object is present, and
        # holds a default to the rules before the defaults within are filled in.
        inner = {
            name: inner["default"]
            for name, inner in schema.get("properties", {}).items()
            if "default" in inner
        }
        if inner:
            schema["default"] = inner
    return schema


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `node` with its reference or its one option besides null put in its place."""
    own = {key: value for key, value in node.items() if key not in ("$ref", "anyOf", "allOf")}
    if "$ref" in node:
        return {**definitions[node["$ref"].rsplit("/", 1)[1]], **own}
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return {**_resolved(options[0], definitions), **own}
    return node
