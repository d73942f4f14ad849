"""The scalar types of the API: decimals, names, labels and batch sizes, with their bounds."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt
from pydantic_core import PydanticCustomError

# 32 characters with an exponent of two digits are always finite: no rule has to ask.
DECIMAL_PATTERN = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"
FRACTION_PATTERN = r"^(0(\.[0-9]+)?|1(\.0+)?)$"
UP_TO_A_HALF_PATTERN = r"^0(\.[0-4][0-9]*|\.50*)?$"
PERCENT_PATTERN = r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LABEL_VALUE_PATTERN = r"^$|^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

MAX_CHOICES = 64
MAX_BATCH_SIZE = 1 << 24
MAX_ANNOTATION = 1 << 18
"""What Kubernetes allows all annotations of an object together, bytes."""


def _decimal(value: Any) -> Any:
    """Refuse what is not a quoted, finite decimal, and say how to write it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise PydanticCustomError(
            "decimal_unquoted", 'is a decimal in quotes; quote it: "{text}"', {"text": str(value)}
        )
    try:
        finite = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        finite = False
    if not finite:
        raise PydanticCustomError(
            "decimal",
            'must be a decimal in quotes, such as "0.97", not {given}',
            {"given": repr(value)},
        )
    return value


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    """Sort the choices and refuse a duplicate."""
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise PydanticCustomError(
            "duplicate_choices",
            "names {values} more than once; each batch size is given once",
            {"values": ", ".join(map(str, repeated))},
        )
    return tuple(sorted(values))


def _fraction(value: Any) -> Any:
    """Refuse a decimal outside 0..1."""
    if not 0.0 <= float(_decimal(value)) <= 1.0:
        raise PydanticCustomError(
            "fraction", 'must be from "0" to "1", not {given}', {"given": repr(value)}
        )
    return value


def _up_to_a_half(value: Any) -> Any:
    """Refuse a decimal outside 0..0.5."""
    if not 0.0 <= float(_decimal(value)) <= 0.5:
        raise PydanticCustomError(
            "up_to_a_half", 'must be from "0" to "0.5", not {given}', {"given": repr(value)}
        )
    return value


def _percent(value: Any) -> Any:
    """Refuse a decimal outside 0..100."""
    if not 0.0 <= float(_decimal(value)) <= 100.0:
        raise PydanticCustomError(
            "percent", 'must be from "0" to "100", not {given}', {"given": repr(value)}
        )
    return value


Decimal = Annotated[str, Field(pattern=DECIMAL_PATTERN, max_length=32), BeforeValidator(_decimal)]
# The bounds come first: pydantic leaves those that follow a validator out of its JSON schema.
Fraction = Annotated[
    str, Field(pattern=FRACTION_PATTERN, max_length=32), BeforeValidator(_fraction)
]
UpToAHalf = Annotated[
    str, Field(pattern=UP_TO_A_HALF_PATTERN, max_length=32), BeforeValidator(_up_to_a_half)
]
Percent = Annotated[str, Field(pattern=PERCENT_PATTERN, max_length=32), BeforeValidator(_percent)]
BatchSizeValue = Annotated[StrictInt, Field(ge=1, le=MAX_BATCH_SIZE)]
Labels = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=317)],
        Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)],
    ],
    Field(max_length=64),
]
Annotations = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=317)],
        Annotated[str, Field(max_length=MAX_ANNOTATION)],
    ],
    Field(max_length=64),
]

Choices = Annotated[
    tuple[BatchSizeValue, ...],
    Field(
        min_length=1,
        max_length=MAX_CHOICES,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    ),
    AfterValidator(_ascending),
]
