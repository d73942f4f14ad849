"""Reads and checks what callers send.  Nothing unchecked goes further than this."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from zeus_agent.leases import Refused
from zeus_runtime.protocol import (
    SESSION_TTL_SECONDS,
    ErrorCode,
    PowerLimitRequest,
    ProtocolError,
    Result,
    SessionRequest,
)

MIN_TTL_SECONDS = 1.0
MAX_TTL_SECONDS = 600.0
MAX_WATTS = 100_000.0  # far above any device: what is more is a mistake of units
MAX_SEQUENCE = 1 << 53
_LARGEST = sys.float_info.max

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,252}")
_GPU_UUID = re.compile(r"(GPU|MIG)-[A-Za-z0-9-]{1,80}")


def _bad(message: str) -> Refused:
    return Refused(ErrorCode.BAD_REQUEST, message)


def json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; an empty body is an empty object.

    Raises:
        Refused: it is something else.
    """
    if not data.strip():
        return {}
    try:
        body = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _bad(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _bad(f"the body: expected an object, got {type(body).__name__}")
    return body


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def session_name(text: str) -> str:
    """Check the name of a session.

    Raises:
        Refused: it is not 1 to 253 letters, digits and `._:/@-`, a letter or digit first.
    """
    if not _NAME.fullmatch(text):
        raise _bad(
            "session: expected 1 to 253 letters, digits and ._:/@-, beginning with a letter or "
            "digit"
        )
    return text


def gpu_uuid(text: str) -> str:
    """Check a GPU's UUID.

    Raises:
        Refused: it does not look like one; an index is none.
    """
    if not _GPU_UUID.fullmatch(text):
        raise _bad("gpu: expected a UUID as NVML gives it, GPU-…; an index is not accepted")
    return text


def session_request(body: dict[str, Any]) -> SessionRequest:
    """Read a `SessionRequest`.

    Raises:
        Refused: a field is malformed.
    """
    return SessionRequest(
        job=_label(body, "job"),
        recurrence=_label(body, "recurrence"),
        attempt=_integer(body, "attempt", 0),
        ttl_seconds=_number(
            body, "ttl_seconds", MIN_TTL_SECONDS, MAX_TTL_SECONDS, SESSION_TTL_SECONDS
        ),
    )


def power_limit_request(body: dict[str, Any]) -> PowerLimitRequest:
    """Read a `PowerLimitRequest`.

    Raises:
        Refused: a field is missing or malformed.
    """
    if "power_limit_watts" not in body:
        raise _bad("power_limit_watts: missing; the limit in watts")
    return PowerLimitRequest(
        power_limit_watts=_number(body, "power_limit_watts", 0.001, MAX_WATTS, 0.0),
        sequence=_integer(body, "sequence", 0),
    )


def result(body: dict[str, Any]) -> Result:
    """Read a `Result`.

    Raises:
        Refused: a field is missing or malformed.
    """
    try:
        parsed = Result.from_body(body)
    except (ProtocolError, OverflowError) as error:  # whole numbers may be larger than any float
        raise _bad(f"result: {str(error).removeprefix('result: ')}") from None
    for name in ("sequence", "epochs", "batch_size", "gpu_count", "attempt"):
        _integer(body, name, 0)
    for name in ("time_seconds", "max_power_watts"):
        _number(body, name, 0.0, _LARGEST, 0.0)
    for name in ("energy_joules", "epoch_energy_joules", "epoch_time_seconds"):
        if body.get(name) is not None:
            _number(body, name, 0.0, _LARGEST, 0.0)
    for name in ("job", "recurrence", "gpu_model", "gpu_driver"):
        _label(body, name)
    if parsed.outcome is not None:
        _label(body, "outcome")
    return parsed


def _label(body: dict[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > 253:
        raise _bad(f"{name}: expected text of at most 253 characters")
    return value


def _integer(body: dict[str, Any], name: str, default: int) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SEQUENCE:
        raise _bad(f"{name}: expected a whole number from 0 to {MAX_SEQUENCE}")
    return value


def _number(
    body: dict[str, Any], name: str, lowest: float, highest: float, default: float
) -> float:
    value = body.get(name, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not lowest <= value <= highest:
        raise _bad(f"{name}: expected a number from {lowest:g} to {highest:g}")
    return float(value)
