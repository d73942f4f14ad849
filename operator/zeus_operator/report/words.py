"""Savings and outcomes as sentences, the same on a terminal and on the page.  Pure."""

from __future__ import annotations

from zeus_operator.report import units
from zeus_operator.report.default_cost import MIN_REPEATS
from zeus_operator.report.savings import MIN_FOR_FUTURE, Comparison, NotKnown, Saving, Savings
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

_NOT_KNOWN = {
    NotKnown.NOTHING_LEARNED: (
        "only the default configuration has run",
        "A recurrence that the policy decides comes first.",
    ),
    NotKnown.NO_MODEL: ("no recurrence has reached its target", ""),
    NotKnown.NO_DEFAULT: (
        "no run of the default configuration counts",
        "Set savings.controlFraction, or run with --control 3, to measure it.",
    ),
    NotKnown.DEFAULT_FAILED: (
        "the default configuration has not reached the target",
        "Run with --control 3 to measure it again.",
    ),
    NotKnown.NO_SPREAD: (
        "too few runs repeat a batch size to tell how much runs differ by chance",
        f"It takes {MIN_REPEATS} repeats: of the default in control runs, or of a batch size that "
        "the policy chose.",
    ),
    NotKnown.NOT_MEASURED: ("costs were not measured on both sides", ""),
    NotKnown.FEW_RECURRENCES: (
        f"it takes {MIN_FOR_FUTURE} recurrences to tell what the next ones will cost",
        "",
    ),
}
"""Why a saving is not known yet, and what is to be done."""


def outcome_words(outcome: Outcome | None) -> str:
    """Return an outcome in a few words."""
    return "running" if outcome is None else _OUTCOMES[outcome]


def saving_words(comparison: Comparison) -> str:
    """Return the cost saved, `38.2 % (31.0 to 44.9 %)`, or why it is not known yet."""
    saving = comparison.cost
    if saving is None:
        return f"not known yet: {why_not_known(comparison)}"
    return f"{units.percent(saving.fraction)} ({units.interval(saving.low, saving.high)})"


def why_not_known(comparison: Comparison) -> str:
    """Return why the cost saved is not known yet, as a clause; "": it is."""
    return "" if comparison.not_known is None else _NOT_KNOWN[comparison.not_known][0]


def interval_words(saving: Saving | None) -> str:
    """Return the 95 % interval of a saving, or that it is not known yet."""
    return units.interval(saving.low, saving.high) if saving else "not known yet"


def headline(savings: Savings) -> str:
    """Return the result with its interval, or why it is not known, and what was left out."""
    parts = (_result(savings), _control_words(savings), left_out_words(savings))
    return " ".join(filter(None, parts))


def left_out_words(savings: Savings) -> str:
    """Return which recurrences are left out of the savings, as a sentence; "": none."""
    if not savings.left_out:
        return ""
    parts = [f"{_count(item.recurrences, 'recurrence')} {item.terms}" for item in savings.left_out]
    return f"Left out, because they can't be compared with the newest: {', '.join(parts)}."


def _result(savings: Savings) -> str:
    cost = savings.overall.cost
    if cost is None:
        reason = savings.overall.not_known or NotKnown.NOT_MEASURED
        why, advice = _NOT_KNOWN[reason]
        return f"Savings are not known yet: {why}. {advice}".rstrip()
    amount = units.percent(abs(cost.fraction))
    change = "less" if cost.fraction >= 0 else "more"
    bounds = f"95 % interval of the saving: {units.interval(cost.low, cost.high)}"
    doubt = "" if cost.is_clear else "; chance alone could explain the difference"
    return (
        f"A finished model cost {amount} {change} than with the default configuration, over "
        f"{_count(cost.learned.runs, 'recurrence')}, measured against "
        f"{_count(cost.default.runs, 'run')} of the default ({bounds}{doubt})."
    )


def _control_words(savings: Savings) -> str:
    """Return what is saved when the default's recurrences are paid for as well; "": none are."""
    cost = savings.with_control.cost
    if cost is None or not savings.control:
        return ""
    return (
        f"With the {_count(savings.control, 'recurrence')} of the default, which saved nothing, "
        f"it is {units.percent(cost.fraction)} ({units.interval(cost.low, cost.high)})."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
