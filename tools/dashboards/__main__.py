"""Writes the Grafana dashboards of the chart, or checks them: `python -m tools.dashboards`."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from tools.dashboards import DASHBOARDS
from tools.dashboards.panels import Dashboard, document
from tools.generated import write_or_check

FOLDER = Path("charts/zeus-operator/files/dashboards")


def text(dashboard: Dashboard) -> str:
    """Return the file of a dashboard."""
    return json.dumps(document(dashboard), indent=2, ensure_ascii=False) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write or check the files; return the exit code."""
    files = {
        FOLDER / f"{each.uid.removeprefix('zeus-')}.json": functools.partial(text, each)
        for each in DASHBOARDS
    }
    return write_or_check(files, "python -m tools.dashboards", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
