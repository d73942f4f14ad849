"""Reads and checks what callers send.  Nothing unchecked goes further than this."""

from __future__ import annotations

import json
import re
from typing import Any

from zeus_agent.schemas import Schema, bad, checked, schema_of
from zeus_runtime.protocol import PowerLimitRequest, Result, SessionRequest

SESSION_NAME: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,252}$",
    "description": ("1 to 253 letters, digits and ._:/@-, beginning with a letter or digit"),
}
GPU_UUID: Schema = {
    "type": "string",
    "pattern": "^(GPU|MIG)-[A-Za-z0-9-]{1,80}$",
    "description": "a UUID as NVML gives it, GPU-…; an index is not accepted",
}
POD_UID: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z0-9-]{1,64}$",
    "description": "a pod's UID",
}

_SESSION_NAME = re.compile(SESSION_NAME["pattern"][1:-1])
_GPU_UUID = re.compile(GPU_UUID["pattern"][1:-1])
_POD_UID = re.compile(POD_UID["pattern"][1:-1])
_SESSION_REQUEST = schema_of(SessionRequest)
_POWER_LIMIT_REQUEST = schema_of(PowerLimitRequest)
_RESULT = schema_of(Result)


def json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; an empty body is an empty object.

    Raises:
        Refused: it is something else.
    """
    if not data.strip():
        return {}
    try:
        body = _decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad(f"the body: expected an object, got {type(body).__name__}")
    return body


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode  # made once, not for each body


def session_name(text: str) -> str:
    """Check the name of a session.

    Raises:
        Refused: it is none.
    """
    if not _SESSION_NAME.fullmatch(text):
        raise bad(f"session: expected {SESSION_NAME['description']}")
    return text


def gpu_uuid(text: str) -> str:
    """Check a GPU's UUID.

    Raises:
        Refused: it does not look like one; an index is none.
    """
    if not _GPU_UUID.fullmatch(text):
        raise bad(f"gpu: expected {GPU_UUID['description']}")
    return text


def pod_uid(text: str) -> str:
    """Check a pod's UID.

    Raises:
        Refused: it does not look like one.
    """
    if not _POD_UID.fullmatch(text):
        raise bad(f"pod: expected {POD_UID['description']}")
    return text


def session_request(body: dict[str, Any]) -> SessionRequest:
    """Read a `SessionRequest`.

    Raises:
        Refused: a field is malformed.
    """
    return SessionRequest(**checked(body, _SESSION_REQUEST, ""))


def power_limit_request(body: dict[str, Any]) -> PowerLimitRequest:
    """Read a `PowerLimitRequest`.

    Raises:
        Refused: a field is missing or malformed.
    """
    return PowerLimitRequest(**checked(body, _POWER_LIMIT_REQUEST, ""))


def result(body: dict[str, Any]) -> Result:
    """Read a `Result`.

    Raises:
        Refused: a field is missing or malformed.
    """
    return Result.from_body(checked(body, _RESULT, ""))
