"""Plain text tables, the same on a terminal and in a pipe.  Pure."""

from __future__ import annotations

from collections.abc import Sequence


def printable(line: str) -> str:
    """Return a line with a blank for each character that can't be printed.

    Words come from pods and from whoever may write to the cluster: none may steer a terminal or
    begin a line of its own.
    """
    return "".join(each if each.isprintable() else " " for each in line)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset({0})
) -> list[str]:
    """Return the lines of a table.

    Args:
        header: titles of the columns; all empty: no title line.
        rows: cells, as many in each as there are titles.
        left: columns that are aligned to the left; numbers stand to the right.
    """
    shown = [header, *rows] if any(header) else list(rows)
    widths = [max((len(row[index]) for row in shown), default=0) for index in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]


def pairs(values: Sequence[tuple[str, str]]) -> list[str]:
    """Return `name  value` lines with the values in one column."""
    width = max((len(name) for name, _ in values), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in values]
