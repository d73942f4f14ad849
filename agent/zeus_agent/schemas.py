"""JSON Schemas of the API's bodies, and the check by them.  Pure.

What is documented is what is checked: the OpenAPI document contains the very schemas that
`checked` goes by.  They come from the dataclasses of `zeus_runtime.protocol`, which have the
names and types, and from the table here, which has the bounds.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any

from zeus_agent.leases import Refused
from zeus_runtime.protocol import (
    PROTOCOL_VERSION,
    ErrorCode,
    PowerLimitRequest,
    PowerProfilePoint,
    Result,
    SessionRequest,
    SweepMeasurement,
)

Schema = dict[str, Any]

MIN_TTL_SECONDS = 1.0
MAX_TTL_SECONDS = 600.0
MAX_WATTS = 100_000.0  # far above any device: what is more is a mistake of units
MAX_INTEGER = 1 << 53  # what every JSON reader keeps exactly
MAX_NUMBER = 1e300
MAX_LABEL_LENGTH = 253
MAX_NOTE_LENGTH = 1000
MAX_LIST_LENGTH = 4096
MAX_POINTS = 256

_LABEL = {"maxLength": MAX_LABEL_LENGTH}
_COUNT = {"minimum": 0, "maximum": MAX_INTEGER}
_AMOUNT = {"minimum": 0.0, "maximum": MAX_NUMBER}
_NUMBER = {"minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}

_BOUNDS: Mapping[type, Mapping[str, Schema]] = {
    SessionRequest: {
        "job": _LABEL,
        "recurrence": _LABEL,
        "attempt": _COUNT,
        "ttl_seconds": {"minimum": MIN_TTL_SECONDS, "maximum": MAX_TTL_SECONDS},
    },
    PowerLimitRequest: {
        "power_limit_watts": {"minimum": 0.001, "maximum": MAX_WATTS},
        "sequence": _COUNT,
    },
    Result: {
        "version": {"const": PROTOCOL_VERSION},
        **dict.fromkeys(("job", "recurrence", "gpu_model", "gpu_driver", "outcome"), _LABEL),
        "note": {"maxLength": MAX_NOTE_LENGTH},
        **dict.fromkeys(
            (
                *("attempt", "sequence", "batch_size", "epochs", "gpu_count", "sweeping"),
                "carried_epochs",
            ),
            _COUNT,
        ),
        **dict.fromkeys(
            (
                *("time_seconds", "energy_joules", "epoch_energy_joules", "epoch_time_seconds"),
                *("power_limit_watts", "max_power_watts", "sweep_joules", "sweep_seconds"),
                *("full_power_epoch_joules", "full_power_epoch_seconds"),
                *("carried_energy_joules", "carried_time_seconds"),
            ),
            _AMOUNT,
        ),
        **dict.fromkeys(("best_metric", "last_metric"), _NUMBER),
        "milestones": {"maxItems": MAX_LIST_LENGTH},
        **{name: {"maxItems": MAX_POINTS} for name in ("power_profile", "sweep")},
    },
    PowerProfilePoint: dict.fromkeys(
        ("power_limit_watts", "average_power_watts", "seconds_per_step", "certainty"), _AMOUNT
    ),
    SweepMeasurement: {"batch_size": _COUNT, "epoch_seconds": _AMOUNT, "epoch_joules": _AMOUNT},
}

_REQUIRED: Mapping[type, tuple[str, ...]] = {Result: ("version",)}
"""Fields that have a default in the dataclass and yet must be sent."""

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


@cache
def schema_of(kind: type) -> Schema:
    """Return the schema of a dataclass, those inside it included.  Not to be changed.

    Other properties are let through unread, since a newer peer may send them.
    """
    hints = typing.get_type_hints(kind)
    bounds = _BOUNDS.get(kind, {})
    properties = {}
    required = list(_REQUIRED.get(kind, ()))
    for each in fields(kind):
        properties[each.name] = _bounded(_schema_of_hint(hints[each.name]), bounds.get(each.name))
        if each.default is MISSING and each.default_factory is MISSING:
            required.append(each.name)
    schema: Schema = {"type": "object", "properties": properties}
    return {**schema, "required": sorted(required)} if required else schema


def _schema_of_hint(hint: Any) -> Schema:
    """Return the schema of a type as the protocol's dataclasses use them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (each for each in arguments if each is not type(None))
        schema = _schema_of_hint(inner)
        return {**schema, "type": [schema["type"], "null"]}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": _schema_of_hint(arguments[0])}
        items = [_bounded(_schema_of_hint(each), _ITEM_BOUNDS[each]) for each in arguments]
        count = len(items)
        return {"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}
    if origin is dict:
        return {"type": "object"}
    if is_dataclass(hint) and isinstance(hint, type):
        return schema_of(hint)
    return {"type": _JSON_TYPES[hint]}


_ITEM_BOUNDS: Mapping[Any, Schema] = {int: _COUNT, float: _NUMBER}


def _bounded(schema: Schema, bounds: Schema | None) -> Schema:
    return {**schema, **bounds} if bounds else schema


# ---- the check ----------------------------------------------------------------


def checked(value: Any, schema: Schema, where: str) -> Any:
    """Return `value` as its schema has it, without what the schema does not name.

    Args:
        value: as JSON gave it.
        schema: of the kind that `schema_of` makes.
        where: names the value in messages; "" for a whole body.

    Raises:
        Refused: it does not match; the message names the field.
    """
    kinds = schema["type"]
    kind = kinds if isinstance(kinds, str) else kinds[0]
    if value is None and kind != kinds:
        return None
    if kind == "object":
        return _checked_object(value, schema, where)
    if kind == "array":
        return _checked_array(value, schema, where)
    if kind == "string":
        return _checked_text(value, schema, where)
    if kind == "boolean":
        if not isinstance(value, bool):
            raise bad(f"{where}: expected true or false")
        return value
    return _checked_number(value, schema, where, whole=kind == "integer")


def _checked_object(value: Any, schema: Schema, where: str) -> Any:
    if not isinstance(value, dict):
        raise bad(f"{where or 'the body'}: expected an object, got {_json_type(value)}")
    properties = schema.get("properties", {})
    prefix = f"{where}." if where else ""
    for name in schema.get("required", ()):
        if name not in value:
            raise bad(f"{prefix}{name}: missing")
    return {
        name: checked(value[name], inner, f"{prefix}{name}")
        for name, inner in properties.items()
        if name in value
    }


def _checked_array(value: Any, schema: Schema, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad(f"{where}: expected a list, got {_json_type(value)}")
    least, most = schema.get("minItems", 0), schema.get("maxItems", MAX_LIST_LENGTH)
    if not least <= len(value) <= most:
        raise bad(f"{where}: expected {least} to {most} items, got {len(value)}")
    inner = schema.get("prefixItems") or [schema["items"]] * len(value)
    return [
        checked(each, its, f"{where}[{index}]")
        for index, (each, its) in enumerate(zip(value, inner, strict=True))
    ]


def _checked_text(value: Any, schema: Schema, where: str) -> str:
    longest = schema.get("maxLength")
    if not isinstance(value, str) or (longest is not None and len(value) > longest):
        raise bad(f"{where}: expected text of at most {longest} characters")
    pattern = schema.get("pattern")
    if pattern is not None and not re.search(pattern, value):
        raise bad(f"{where}: expected {schema['description']}")
    return value


def _checked_number(value: Any, schema: Schema, where: str, *, whole: bool) -> int | float:
    const = schema.get("const")
    lowest, highest = schema.get("minimum", -MAX_NUMBER), schema.get("maximum", MAX_NUMBER)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if const is not None and not (is_number and value == const):
        raise bad(f"{where}: expected {const}; this agent understands no other")
    is_whole = is_number and (isinstance(value, int) or value.is_integer())
    if not is_number or not lowest <= value <= highest or (whole and not is_whole):
        kind = "a whole number" if whole else "a number"
        raise bad(f"{where}: expected {kind} from {lowest:.16g} to {highest:.16g}")
    return int(value) if whole else float(value)


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def bad(message: str) -> Refused:
    """Return the refusal of a malformed request."""
    return Refused(ErrorCode.BAD_REQUEST, message)
