"""The table of times and sizes in docs/reference/images.md.  Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tools.images.archive import ArchiveFacts

BEGIN = "<!-- measured: written by `python -m tools.images measure` -->"
END = "<!-- /measured -->"
_MEGABYTE = 1_000_000


def table(facts: Mapping[str, ArchiveFacts], seconds: Mapping[str, float]) -> str:
    """Return a Markdown table: what is pulled, what it unpacks to, how long it took."""
    rows = [
        "| image | to pull, MB | unpacked, MB | layers | built in, s |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| `{name}` | {_megabytes(each.download_bytes)} | {_megabytes(each.unpacked_bytes)} "
        f"| {each.layers} | {seconds[name]:.0f} |"
        for name, each in facts.items()
    ]
    return "\n".join(rows)


def with_table(page: str, rows: str) -> str:
    """Return the page with `rows` between its marks.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines `{BEGIN}` and `{END}` to write between")
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


def _megabytes(number: int) -> str:
    megabytes = number / _MEGABYTE
    return f"{megabytes:.1f}" if megabytes < 10 else f"{megabytes:.0f}"
