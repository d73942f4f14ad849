"""Log lines for machines and people: a short message and named fields, one line each."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from zeus_agent.patient_lines import PatientLines

_FIELDS = "zeus_fields"


def note(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log `message` with `fields`; fields that are None or "" are left out."""
    if logger.isEnabledFor(level):
        kept = {name: value for name, value in fields.items() if value not in (None, "")}
        logger.log(level, message, extra={_FIELDS: kept})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = dict(getattr(record, _FIELDS, {}))
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
    is_plain = text.isprintable() and not any(c in ' "=' for c in text)
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
