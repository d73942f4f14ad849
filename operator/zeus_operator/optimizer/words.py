"""The plain sentences that explain a choice, and the numbers in them."""

from __future__ import annotations

_PREFIXES = ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"))


def joules(value: float | None) -> str:
    """Return `value` joules with three significant digits and a unit that suits its size."""
    if value is None:
        return "an unknown cost"
    for scale, unit in _PREFIXES:
        if abs(value) >= 0.9995 * scale:
            scaled = value / scale
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:.2g} J"


def percent(share: float) -> str:
    """Return a share of one as whole percent."""
    return f"{100 * share:.0f}%"


def times(count: int) -> str:
    """Return how many runs `count` is, in words."""
    return "1 run" if count == 1 else f"{count} runs"


def first_run_sentence(batch_size: int) -> str:
    """Why the first run of a job takes the default."""
    return f"First run: the default batch size {batch_size}, to have something to compare with."


def last_attempt_sentence(batch_size: int, attempt: int, attempts: int) -> str:
    """Why the last attempt of a recurrence takes the default without a threshold."""
    return (
        f"Last attempt ({attempt} of {attempts}): the default batch size {batch_size} without "
        "a cost limit, so that this recurrence ends with a model."
    )
