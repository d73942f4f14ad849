"""Savings and outcomes as sentences, the same on a terminal and on the page.  Pure."""

from __future__ import annotations

from zeus_operator.report import units
from zeus_operator.report.savings import MIN_FOR_INTERVAL, Saving, Savings
from zeus_runtime.protocol import Outcome

_OUTCOMES = {
    Outcome.REACHED: "reached the target",
    Outcome.COST_EXCEEDED: "stopped: cost over the threshold",
    Outcome.MAX_EPOCHS: "target not reached in the epochs allowed",
    Outcome.DIVERGED: "diverged: the metric or loss is not finite",
    Outcome.OUT_OF_MEMORY: "out of memory",
    Outcome.CRASHED: "crashed",
    Outcome.PREEMPTED: "ended from outside",
    Outcome.NO_TELEMETRY: "no believable measurement",
    Outcome.DECISION_NOT_APPLIED: "trained with another batch size than decided",
    Outcome.LOST: "lost: it ended without a result",
    Outcome.CANCELLED: "cancelled",
}


def outcome_words(outcome: Outcome | None) -> str:
    """Return an outcome in a few words."""
    return "running" if outcome is None else _OUTCOMES[outcome]


def saving_words(saving: Saving | None) -> str:
    """Return `38.2 % (31.0 to 44.9 %)`, with a word where the interval is not known yet."""
    if saving is None:
        return "not known"
    bounds = units.interval(saving.low, saving.high)
    return f"{units.percent(saving.fraction)} ({bounds or 'interval not known yet'})"


def interval_words(saving: Saving | None) -> str:
    """Return the 95 % interval of a saving, or that it is not known yet."""
    bounds = units.interval(saving.low, saving.high) if saving else ""
    return bounds or "not known yet"


def headline(savings: Savings) -> str:
    """Return the result with its interval, or why it is not known, and what was left out."""
    return " ".join(filter(None, (_result(savings), left_out_words(savings))))


def left_out_words(savings: Savings) -> str:
    """Return which recurrences are left out of the savings, as a sentence; "": none."""
    if not savings.left_out:
        return ""
    parts = [
        f"{item.recurrences} recurrence{'' if item.recurrences == 1 else 's'} {item.terms}"
        for item in savings.left_out
    ]
    return f"Left out, because they can't be compared with the newest: {', '.join(parts)}."


def _result(savings: Savings) -> str:
    cost = savings.overall.cost
    if cost is None:
        return savings.note or "Savings are not known yet: costs were not measured on both sides."
    amount = units.percent(abs(cost.fraction))
    change = "less" if cost.fraction >= 0 else "more"
    against = (
        f"A finished model cost {amount} {change} than with the default configuration, over "
        f"{cost.learned.recurrences} recurrences, measured against {cost.control.recurrences} of "
        "the default"
    )
    if cost.low is None or cost.high is None:
        return (
            f"{against}. An interval is not known yet: it takes at least {MIN_FOR_INTERVAL} "
            "recurrences on each side."
        )
    bounds = f"95 % interval of the saving: {units.interval(cost.low, cost.high)}"
    doubt = "" if cost.is_clear else "; chance alone could explain the difference"
    return f"{against} ({bounds}{doubt})."
