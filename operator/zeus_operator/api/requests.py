"""What people ask of a ZeusJob by annotating it: idempotent, because the value names the request.

`kubectl annotate zj NAME zeus.energy/run=ID[,runs=N][,kind=control] --overwrite`; several requests
have a ';' between them.  `resume` and `reset` take an ID alone.  The same value asks for nothing
new, however often it is applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zeus_operator.records import RecurrenceKind

MAX_RUNS = 100_000
_ID = re.compile(r"[A-Za-z0-9._:-]{1,63}")
_ALLOWED_ID = "an id of 1 to 63 letters, digits, '.', '_', ':' or '-'"
_ALLOWED_RUN = (
    f"{_ALLOWED_ID}, and after it ',runs=N' and ',kind=control' if wanted: nightly-7,runs=3; "
    "several with ';' between them"
)


class RequestError(ValueError):
    """An annotation that can't be read; the text says what is allowed."""


@dataclass(frozen=True)
class RunRequest:
    """So many recurrences, one after the other.

    Args:
        token: names the request; asked for once, however often it is seen.
    """

    token: str
    runs: int = 1
    kind: RecurrenceKind = RecurrenceKind.LEARNED

    def __str__(self) -> str:
        """Return the annotation's value."""
        text = self.token
        if self.runs != 1:
            text += f",runs={self.runs}"
        if self.kind is not RecurrenceKind.LEARNED:
            text += f",kind={self.kind.value}"
        return text


def parse_runs(text: str) -> tuple[RunRequest, ...]:
    """Return the requests in the value of `zeus.energy/run`, in order.

    Raises:
        RequestError: one of them can't be read.
    """
    return tuple(parse_run(part) for part in text.split(";"))


def parse_run(text: str) -> RunRequest:
    """Return one request of `zeus.energy/run`.

    Raises:
        RequestError: it can't be read.
    """
    token, *options = text.strip().split(",")
    if not _ID.fullmatch(token):
        raise RequestError(f"{text!r} is not understood; allowed: {_ALLOWED_RUN}")
    request = RunRequest(token)
    for option in options:
        name, _, value = option.strip().partition("=")
        if name == "runs" and value.isascii() and value.isdigit() and 1 <= int(value) <= MAX_RUNS:
            request = RunRequest(request.token, int(value), request.kind)
        elif name == "kind" and value in {kind.value for kind in RecurrenceKind}:
            request = RunRequest(request.token, request.runs, RecurrenceKind(value))
        else:
            raise RequestError(f"{option!r} is not understood; allowed: {_ALLOWED_RUN}")
    return request


def parse_token(text: str) -> str:
    """Return the id in the value of `zeus.energy/resume` or `zeus.energy/reset`.

    Raises:
        RequestError: it is none.
    """
    token = text.strip()
    if not _ID.fullmatch(token):
        raise RequestError(f"{text!r} is not an id; allowed: {_ALLOWED_ID}")
    return token
