"""Values as `.status` holds them: bounded texts, whole numbers, decimals and times.  Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from zeus_operator.api.status import Time

MOST = 10**15
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_PERCENT_MOST = 1e9


def cut(text: str, most: int) -> str:
    """Return `text` on one line in at most so many bytes of UTF-8, cut between words.

    Bytes, because what bounds a status is the size of the request; characters are never
    more than bytes.  What can't be printed is a blank: the words come from other programs.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line.encode()) <= most:
        return line
    kept = line.encode()[: most - len(_ELLIPSIS.encode())].decode(errors="ignore")
    if not line[len(kept)].isspace():
        whole, blank, _ = kept.rpartition(" ")
        kept = whole if blank else kept
    return kept.rstrip(" ,;:") + _ELLIPSIS


def moment(time: datetime) -> Time:
    """Return an aware `time` as Kubernetes writes it: UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_or_none(time: datetime | None) -> Time | None:
    """Return `time` as Kubernetes writes it; None stays None."""
    return None if time is None else moment(time)


def whole(value: float | None) -> int | None:
    """Return a quantity as a whole number from 0; None: it is not known or no number."""
    if value is None or not math.isfinite(value):
        return None
    return round(min(max(value, 0.0), float(MOST)))


def signed(value: float | None) -> int | None:
    """Return a quantity as a whole number; None: it is not known or no number."""
    if value is None or not math.isfinite(value):
        return None
    return round(min(max(value, -float(MOST)), float(MOST)))


def decimal(value: float | None) -> str | None:
    """Return a number as a decimal with six significant digits; None: it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    text = f"{value:.6g}"
    # Exponents have two digits in the API; what has three is 0 or senseless as a metric.
    return None if len(text.partition("e")[2].lstrip("+-")) > 2 else text


def percent(fraction: float) -> str | None:
    """Return a fraction in percent with one decimal; None: it is no figure."""
    value = round(100.0 * fraction, 1) if math.isfinite(fraction) else math.inf
    return None if abs(value) > _PERCENT_MOST else f"{value + 0.0:.1f}"


def count(number: int, noun: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
