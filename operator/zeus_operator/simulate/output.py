"""What a simulation says to a program: plain objects with fixed fields.  Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zeus_operator.simulate.group_summary import GroupSummary
from zeus_operator.simulate.summary import Summary

SUMMARY_FIELDS = (
    "workload",
    "gpu",
    "policy",
    "recurrences",
    "seeds",
    "cost_mean",
    "cost_default",
    "cost_best_arm",
    "regret_mean",
    "energy_joules_mean",
    "time_seconds_mean",
    "attempts_mean",
    "worse_than_default",
)
"""Fields of the object of one workload, GPU model, policy and number of recurrences."""


def summary_view(summary: Summary) -> dict[str, Any]:
    """Return the object of one workload, GPU model, policy and number of recurrences."""
    return {name: getattr(summary, name) for name in SUMMARY_FIELDS}


def group_view(summary: GroupSummary) -> dict[str, Any]:
    """Return the object of the replayed groups of one workload, GPU model and policy."""
    return asdict(summary)
