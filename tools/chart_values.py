"""Makes the chart's values.schema.json and the tables of docs/reference/chart.md from values.yaml.

A key's description is the comment above it.  Lines of it that begin with `@schema` hold JSON
schema, in YAML's flow style, that is added to what the default's type says; `@labels` marks labels,
whose names may not be the chart's own; `@free` marks an object that the API server checks, so that
it may have other keys than those that are there.  A `type: number` takes the text of a decimal as
well, within the same bounds: what `helm --set` is given is a number only if it is whole.  Where a
template would not make a number of it, it is `type: [number]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from tools.generated import write_or_check

CHART = Path("charts/zeus-operator")
VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
PAGE = Path("docs/reference/chart.md")

# A selector goes by some of them, and those of the last kind would hand the operator's rights on.
_OWN_LABELS = (
    r"^(app\.kubernetes\.io/(name|instance|part-of|version|managed-by)"
    r"|helm\.sh/chart|rbac\.authorization\.k8s\.io/.*)$"
)
_LABELS = {
    "additionalProperties": {"type": "string"},
    # Not propertyNames: what helm then says names another key of values.yaml.
    "patternProperties": {_OWN_LABELS: False},
}

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


class ValuesError(ValueError):
    """values.yaml lacks something; the text says where and what."""


@dataclass(frozen=True)
class Value:
    """One key of values.yaml.

    Attributes:
        path: e.g. ("operator", "replicas").
        meaning: its description.
        extra: JSON schema that is given for it.
        default: what holds if it is not given.
        children: the keys below it, of an object that has no others.
    """

    path: tuple[str, ...]
    meaning: str
    extra: dict[str, Any]
    default: Any
    children: tuple[Value, ...]
    is_free: bool

    @property
    def name(self) -> str:
        """Return the path as `--set` takes it."""
        return ".".join(self.path)


def read_values(text: str) -> tuple[Value, ...]:
    """Return the keys of `text`.

    Raises:
        ValuesError: a key has no description.
    """
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    return tuple(_values(node, text.splitlines(), ()))


def _values(node: yaml.MappingNode, lines: list[str], above: tuple[str, ...]) -> Iterator[Value]:
    for key, child in node.value:
        path = (*above, key.value)
        meaning, extra, is_free = _comment(lines, key.start_mark.line, path)
        is_object = isinstance(child, yaml.MappingNode) and bool(child.value)
        is_free = is_free or "additionalProperties" in extra
        below = tuple(_values(child, lines, path)) if is_object and not is_free else ()
        default = yaml.safe_load(yaml.serialize(child))
        yield Value(path, meaning, extra, default, below, is_free)


def _comment(
    lines: list[str], line: int, path: tuple[str, ...]
) -> tuple[str, dict[str, Any], bool]:
    """Return what the comment above a line says: description, schema, whether `@free`."""
    first = line
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    words: list[str] = []
    extra: dict[str, Any] = {}
    is_free = False
    for each in lines[first:line]:
        said = each.strip().removeprefix("#").strip()
        if said.startswith("@schema"):
            extra.update(yaml.safe_load(said.removeprefix("@schema")))
        elif said == "@labels":
            extra.update(_LABELS)
        elif said == "@free":
            is_free = True
        else:
            words.append(said)
    if not words:
        raise ValuesError(f"{VALUES}: {'.'.join(path)} has no description above it")
    return " ".join(words), extra, is_free


def schema_of(values: Sequence[Value]) -> dict[str, Any]:
    """Return the JSON schema: keys that are not in values.yaml are refused."""
    # Helm hands `global` to a chart that is part of another one.
    properties = {
        **{each.path[-1]: _schema(each) for each in values},
        "global": {"type": "object", "description": "Of a chart that has this one in it."},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _schema(value: Value) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": value.meaning}
    if value.children:
        return {
            **schema,
            "type": "object",
            "additionalProperties": False,
            "properties": {each.path[-1]: _schema(each) for each in value.children},
        }
    kind = "object" if isinstance(value.default, dict) else _TYPES[type(value.default)]
    said = {"type": kind, **value.extra}
    if said["type"] == "number":
        said |= {"type": ["number", "string"], "pattern": decimal_pattern(said)}
    return {**schema, **said}


def decimal_pattern(bounds: Mapping[str, Any]) -> str:
    """Return the pattern of the decimals within bounds, as JSON schema names these.

    Only what the values have: a least value, from 0, and a whole number as the most.
    """
    is_above = "exclusiveMinimum" in bounds
    least = Decimal(str(bounds["exclusiveMinimum" if is_above else "minimum"]))
    most = bounds.get("maximum")
    whole, _, digits = f"{least:f}".partition(".")
    exact = digits.rstrip("0")
    is_whole = not exact and not is_above
    first = int(whole) + (not is_whole)
    parts = [rf"({'|'.join(_whole_numbers(first, None if most is None else most - 1))})(\.[0-9]+)?"]
    if not is_whole:
        parts.append(rf"{whole}\.({'|'.join(_fractions(exact, is_above=is_above))})")
    if most is not None:
        parts.append(rf"{most}(\.0+)?")
    return f"^({'|'.join(parts)})$"


def _fractions(least: str, *, is_above: bool) -> Iterator[str]:
    """Yield patterns of the digits after a point that are at least `least`, or above it."""
    for index, digit in enumerate(least):
        if digit != "9":
            yield f"{least[:index]}[{int(digit) + 1}-9][0-9]*"
    yield f"{least}[0-9]*[1-9][0-9]*" if is_above else f"{least}[0-9]*"


def _whole_numbers(least: int, most: int | None) -> Iterator[str]:
    """Yield patterns that together fit the whole numbers from `least` to `most`, or all above."""
    length = len(str(least))
    while most is None or 10 ** (length - 1) <= max(most, 1):
        shortest = 10 ** (length - 1) if length > 1 else 0
        low, high = max(least, shortest), 10**length - 1
        if most is None:
            yield from _of_one_length(str(low), str(high))
            yield f"[1-9][0-9]{{{length},}}"
            return
        if low <= min(high, most):
            yield from _of_one_length(str(low), str(min(high, most)))
        length += 1


def _of_one_length(least: str, most: str) -> Iterator[str]:
    """Yield patterns of the numbers from `least` to `most`, which have as many digits."""
    if not least:
        yield ""
        return
    first, last, rest = int(least[0]), int(most[0]), len(least) - 1
    if first == last:
        yield from (f"{first}{each}" for each in _of_one_length(least[1:], most[1:]))
        return
    if least[1:].strip("0"):
        yield from (f"{first}{each}" for each in _of_one_length(least[1:], "9" * rest))
        first += 1
    has_more = bool(most[1:].strip("9"))
    if first <= last - has_more:
        yield f"[{first}-{last - has_more}]" + "[0-9]" * rest
    if has_more:
        yield from (f"{last}{each}" for each in _of_one_length("0" * rest, most[1:]))


MARK = "<!-- What follows is made from charts/zeus-operator/values.yaml by `make docs`. -->\n"


def page_of(values: Sequence[Value], before: str) -> str:
    """Return the reference page: what `before` says above the mark, and the tables.

    Raises:
        ValuesError: there is no mark.
    """
    if MARK not in before:
        raise ValuesError(f"{PAGE} has no line {MARK!r}: the tables go below it")
    rest = [each for each in values if not each.children]
    parts = [
        before[: before.index(MARK)] + MARK,
        _table("General", "What concerns the whole release.", rest),
    ]
    for value in values:
        if value.children:
            leaves = [leaf for child in value.children for leaf in _leaves(child)]
            parts.append(_table(f"`{value.name}`", value.meaning, leaves))
    return "\n".join(parts)


def _leaves(value: Value) -> Iterator[Value]:
    if not value.children:
        yield value
    for child in value.children:
        yield from _leaves(child)


def _table(title: str, meaning: str, values: Sequence[Value]) -> str:
    rows = "".join(f"| `{each.name}` | {_default(each)} | {_meaning(each)} |\n" for each in values)
    return f"### {title}\n\n{meaning}\n\n| key | default | meaning |\n| --- | --- | --- |\n{rows}"


def _default(value: Value) -> str:
    text = json.dumps(value.default, ensure_ascii=False)
    return "" if text == '""' else f"`{text}`".replace("|", "\\|")


def _meaning(value: Value) -> str:
    text = value.meaning.replace("|", "\\|")
    if value.is_free and "additionalProperties" not in value.extra:
        return f"*free* {text}"
    return text


def _values_of_the_chart() -> tuple[Value, ...]:
    return read_values(VALUES.read_text(encoding="utf-8"))


def _schema_text() -> str:
    return json.dumps(schema_of(_values_of_the_chart()), indent=2, ensure_ascii=False) + "\n"


def _page_text() -> str:
    return page_of(_values_of_the_chart(), PAGE.read_text(encoding="utf-8"))


GENERATED = {SCHEMA: _schema_text, PAGE: _page_text}


def main(argv: list[str] | None = None) -> int:
    """Write the schema and the page (`--write`) or say which is not current (`--check`)."""
    return write_or_check(GENERATED, "python -m tools.chart_values", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
