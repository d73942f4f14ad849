"""Quantities as people read them: three significant digits and the unit that suits them."""

from __future__ import annotations

import math

UNKNOWN = "-"
_ABSURD = 1e300


def significant(value: float, digits: int = 3) -> str:
    """Return `value` with so many significant digits, and no exponent where it makes sense."""
    if value == 0 or not abs(value) < _ABSURD:  # rounding up the largest floats overflows
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    # Rounding may carry into a new digit (9.996 -> 10.0), which takes one decimal less.
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, decimals)}f}"


def joules(value: float | None) -> str:
    """Return an energy or cost: `842 J`, `12.3 kJ`, `4.56 MJ`."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if abs(value) >= size * 0.9995:
            return f"{significant(value / size)} {unit}"
    return f"{significant(value)} J"


def seconds(value: float | None) -> str:
    """Return a duration: `4.21 s`, `3 min 20 s`, `2 h 05 min`."""
    if value is None:
        return UNKNOWN
    if value < 99.95 or not math.isfinite(value):
        return f"{significant(value)} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def joules_tick(value: float, _: int = 0) -> str:
    """Return an energy as an axis shows it: round numbers without their zeros."""
    for size, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} J"


def seconds_tick(value: float, _: int = 0) -> str:
    """Return a duration as an axis shows it."""
    return f"{value:g} s" if value >= 1 or value == 0 else f"{1000 * value:g} ms"


def watts(value: float | None) -> str:
    """Return a power limit: `175 W`."""
    return UNKNOWN if value is None else f"{value:.0f} W"


def number(value: float | None, digits: int = 4) -> str:
    """Return a metric or another plain number."""
    return UNKNOWN if value is None else f"{value:.{digits}g}"


def percent(fraction: float | None) -> str:
    """Return a saving: `38.2 %`; minus means that it cost more."""
    return UNKNOWN if fraction is None else f"{_signed(fraction)} %"


def interval(low: float, high: float) -> str:
    """Return an interval of savings: `31.0 to 44.9 %`."""
    return f"{_signed(low)} to {_signed(high)} %"


def _signed(fraction: float) -> str:
    """Return percent with one decimal; a value that rounds to zero has no sign."""
    return f"{round(100 * fraction, 1) + 0.0:.1f}"
