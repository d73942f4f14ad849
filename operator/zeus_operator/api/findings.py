"""Turns what pydantic finds into lines for people: a path and what is allowed there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from zeus_operator.api.checks import did_you_mean
from zeus_operator.api.template import Problem

Location = tuple[int | str, ...]

_TYPES = {
    "int_type": "a whole number",
    "string_type": "a text; quote it",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
    "tuple_type": "a list",
}


def findings(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """Return one problem for each mistake; a misspelled required field counts once."""
    details = error.errors(include_url=False, include_context=True)
    explained: set[Location] = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            guess = _guess(root, detail["loc"])
            if guess:
                explained.add((*detail["loc"][:-1], guess))
    return [
        Problem(path_of(detail["loc"]), _message(detail, root))
        for detail in details
        if not (detail["type"] == "missing" and detail["loc"] in explained)
    ]


def path_of(location: Sequence[int | str]) -> str:
    """Return `spec.batchSize.choices[2]` for ("spec", "batchSize", "choices", 2)."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part == "[key]":
            path += " (name)"
        else:
            path += f".{part}" if path else part
    return path


def _message(detail: ErrorDetails, root: type[BaseModel]) -> str:
    kind, given = detail["type"], detail["input"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind == "missing":
        return f"is required: {_described(root, detail['loc'])}"
    if kind == "extra_forbidden":
        guess = _guess(root, detail["loc"])
        hint = f" (did you mean {guess}?)" if guess else ""
        allowed = ", ".join(_fields(_model_at(root, detail["loc"][:-1])))
        return f"is not a field here{hint}; allowed: {allowed}"
    if kind in ("enum", "literal_error"):
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        one_of = "one of " if "," in allowed else ""
        return f"must be {one_of}{allowed}, not {_shown(given)}"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {_shown(given)}"
    if kind == "string_pattern_mismatch":
        return f"{_shown(given)} is not allowed: {_described(root, detail['loc'])}"
    bounds = {
        "greater_than_equal": "at least {ge}",
        "less_than_equal": "at most {le}",
        "too_short": "at least {min_length} long",
        "too_long": "at most {max_length} long",
        "string_too_short": "at least {min_length} characters long",
        "string_too_long": "at most {max_length} characters long",
    }
    if kind in bounds:
        return f"must be {bounds[kind].format(**context)}, not {_shown(given)}"
    return detail["msg"]


def _shown(value: Any) -> str:
    """Return a value as it stands in the file, shortened."""
    if value is None:
        return "empty"
    if isinstance(value, (dict, list, tuple)):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields(model: type[BaseModel] | None) -> list[str]:
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _guess(root: type[BaseModel], location: Location) -> str:
    """Return the field that a misspelled one is most like, or an empty text."""
    fields = _fields(_model_at(root, location[:-1]))
    word = str(location[-1])
    lowered = {field.lower(): field for field in fields}
    plain = word.lower().replace("_", "").replace("-", "")
    if plain in lowered:
        return lowered[plain]
    hint = did_you_mean(word, fields)
    return hint.removeprefix(" (did you mean ").removesuffix("?)")


def _described(root: type[BaseModel], location: Location) -> str:
    model = _model_at(root, location[:-1])
    if model is not None:
        for name, field in model.model_fields.items():
            if location[-1] in (field.alias, name):
                return field.description or ""
    return "see the reference of ZeusJob"


def _model_at(root: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel] | None:
    """Return the model that `location` leads to, or None inside a free mapping."""
    model = root
    for part in location:
        for name, field in model.model_fields.items():
            if part in (field.alias, name):
                found = _model_in(field.annotation)
                break
        else:
            return None
        if found is None:
            return None
        model = found
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in `X` or `X | None`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
