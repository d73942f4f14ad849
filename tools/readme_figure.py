"""Makes the README's picture from a report: what was tried, and what it cost.

    python tools/readme_figure.py build/demo/report.html docs/images/demo.svg

The report's figures take their colours from the page around them; a picture of its own needs
them written out.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FIGURES = ("cost", "batch")  # prefixes of the ids in the report's figures
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
PAPER = "#ffffff"
MARGIN = 12.0


def colours(page: str) -> dict[str, str]:
    """Return the values of the page's CSS variables, those of the light theme."""
    root = re.search(r":root\s*{([^}]*)}", page)
    if root is None:
        raise SystemExit("the report has no colours: is it one of `zeusctl report`?")
    return dict(re.findall(r"--([a-z-]+):\s*([^;]+);", root.group(1)))


def figure(page: str, name: str) -> tuple[str, float, float]:
    """Return the figure's inside with its width and height."""
    for found in re.finditer(
        r'<svg[^>]*viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>(.*?)</svg>', page, re.S
    ):
        if f'id="{name}-' in found.group(3):
            return found.group(3), float(found.group(1)), float(found.group(2))
    raise SystemExit(f"the report has no figure {name!r}")


def main(report: Path, output: Path) -> None:
    """Write the picture."""
    page = report.read_text(encoding="utf-8")
    known = {**colours(page), "font": FONT}
    parts, top, width = [], MARGIN, 0.0
    for name in FIGURES:
        inside, across, down = figure(page, name)
        parts.append(f'<g transform="translate({MARGIN} {top:g})">{inside}</g>')
        top += down + MARGIN
        width = max(width, across + 2.0 * MARGIN)
    drawing = "\n".join(parts)
    for variable in set(re.findall(r"var\(--([a-z-]+)\)", drawing)):
        drawing = drawing.replace(f"var(--{variable})", known[variable])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {top:g}" width="{width:g}">\n'
        f'<rect width="100%" height="100%" rx="10" fill="{PAPER}"/>\n{drawing}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
