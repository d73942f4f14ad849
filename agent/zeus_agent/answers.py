"""What the server answers: JSON, text, errors.  Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from zeus_agent.leases import Refused
from zeus_runtime.protocol import ApiError, ErrorCode

STATUS: Mapping[ErrorCode, int] = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_OWNER: 403,
    ErrorCode.GPU_SHARED: 403,
    ErrorCode.POLICY_DENIED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.GPU_LEASED: 409,
    ErrorCode.STALE_SEQUENCE: 409,
    ErrorCode.FOREIGN_CHANGE: 409,
    ErrorCode.TOO_MANY_SESSIONS: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.NOT_SUPPORTED: 501,
    ErrorCode.NVML_ERROR: 502,
    ErrorCode.GPU_LOST: 503,
    ErrorCode.IDENTITY_UNAVAILABLE: 503,
    ErrorCode.NO_PERMISSION: 503,
    ErrorCode.NOT_READY: 503,
    ErrorCode.NVML_TIMEOUT: 504,
    ErrorCode.STATE_NOT_SAVED: 507,
}
"""The HTTP status of each code; `bad_request` has others where HTTP has a better one."""

JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_encode = json.JSONEncoder(allow_nan=False).encode  # made once: `json.dumps` makes one a call
RETRY_AFTER = "retry_after_seconds"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response.

    Args:
        closes: the connection ends after it.
    """

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False


NOTHING = Answer(204)


def as_json(body: object, status: int = 200) -> Answer:
    """Return an answer with a JSON body."""
    return Answer(status, _encode(body).encode())


def ended(*, restored: bool) -> Answer:
    """204: the limit is back.  202: it is saved and will be put back when the GPU lets us."""
    return NOTHING if restored else as_json({"restored": False}, 202)


def error(
    code: ErrorCode,
    message: str,
    details: Mapping[str, object] | None = None,
    *,
    status: int | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    closes: bool = False,
) -> Answer:
    """Return an `ApiError`.

    Args:
        code: for programs.
        message: for people.
        details: more facts, by name.
        status: where HTTP has a better one than the code's own.
        headers: beside the usual ones.
        closes: the connection ends after it.
    """
    facts = dict(details or {})
    wait = facts.get(RETRY_AFTER)
    if isinstance(wait, (int, float)):
        headers = (*headers, ("Retry-After", str(max(1, math.ceil(wait)))))
    body = asdict(ApiError(code.value, message, facts))
    return Answer(
        STATUS[code] if status is None else status,
        _encode(body).encode(),
        headers=headers,
        closes=closes,
    )


def refusal(refused: Refused) -> Answer:
    """Return what is told to a caller that was refused."""
    is_unknown = refused.code is ErrorCode.UNAUTHENTICATED
    return error(
        refused.code,
        refused.message,
        refused.details,
        # A stranger is not worth a kept connection.
        headers=(("WWW-Authenticate", 'Bearer realm="zeus-agent"'),) if is_unknown else (),
        closes=is_unknown,
    )
