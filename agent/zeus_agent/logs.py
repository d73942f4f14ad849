"""Log lines for machines and people: a short message and named fields, one line each."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from datetime import UTC, datetime

from zeus_agent.patient_lines import PatientLines

_FIELDS = "zeus_fields"
_ODD = re.compile(r'[ "=]')


def note(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log `message` with `fields`; fields that are None or "" are left out."""
    if logger.isEnabledFor(level):
        # As `Logger.log` does, at half its price: each limit that is set is a line.
        record = logging.LogRecord(logger.name, level, "", 0, message, None, None)
        kept = {name: value for name, value in fields.items() if value not in (None, "")}
        setattr(record, _FIELDS, kept)
        logger.handle(record)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = dict(getattr(record, _FIELDS, {}))
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    seconds, milliseconds = divmod(int(record.created * 1000.0), 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


class TextFormatter(logging.Formatter):
    """`time LEVEL message name=value …`; values with odd characters are quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        parts = [_time(record), record.levelname, record.getMessage()]
        parts += [f"{name}={_plain(value)}" for name, value in _fields(record).items()]
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        body = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        return json.dumps(body, default=str)


def _plain(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    is_plain = text.isprintable() and _ODD.search(text) is None
    # A caller chooses session and job names: quoting keeps them from forging fields or lines.
    return text if text and is_plain else json.dumps(text)


def configure(log_format: str) -> None:
    """Send the agent's lines to standard error as `text` or `json`; nobody waits for its reader."""
    handler = PatientLines(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # What no line of ours says need not be found out for each of them (an optimization that the
    # documentation of `logging` names).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
