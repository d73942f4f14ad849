"""The log of the operator's process: lines of text for people, or of JSON for collectors."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime


class _JsonLines(logging.Formatter):
    """One object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(log_format: str) -> None:
    """Log to stderr, as "text" or "json"; kopf says only what is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonLines()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("kopf", "urllib3", "alembic", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Its one warning is that it leaves signals to us.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
