"""What a simulation shows as text.  Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zeus_operator.cli.tables import table
from zeus_operator.report import units
from zeus_operator.simulate.group_summary import GroupSummary
from zeus_operator.simulate.study import PairResult
from zeus_operator.simulate.summary import Summary, geometric_mean
from zeus_operator.simulate.workload import Workload

_NAMES = frozenset({0, 1, 2})  # the columns that hold words


def pair_lines(pairs: Sequence[PairResult], seeds: int) -> list[str]:
    """Return the table of what was simulated run after run, with the means over all pairs."""
    rows = [_pair_row(result.workload, summary) for result in pairs for summary in result.summaries]
    header = (
        "workload",
        "GPU",
        "policy",
        "N",
        "regret",
        "cost/default",
        "energy/default",
        "time/default",
        "attempts",
        "worse",
    )
    return [
        f"After N recurrences, mean of {seeds} histories. Default: always the default batch size "
        "at full power, expected.",
        "Regret: what was spent over the best arm's cost, in costs of the best arm. Worse: share "
        "of histories dearer than the default.",
        "",
        *table(header, rows, left=_NAMES),
        *_means(pairs),
    ]


def _pair_row(workload: Workload, summary: Summary) -> list[str]:
    default, count = workload.default_recurrence, summary.recurrences
    return [
        summary.workload,
        summary.gpu,
        summary.policy,
        str(count),
        f"{summary.regret_mean:.2f}",
        _ratio(summary.cost_mean, summary.cost_default),
        _ratio(summary.energy_joules_mean, count * default.energy_joules),
        _ratio(summary.time_seconds_mean, count * default.time_seconds),
        f"{summary.attempts_mean:.1f}",
        f"{100 * summary.worse_than_default:.0f} %",
    ]


def _ratio(value: float, default: float) -> str:
    return f"{value / default:.3f}" if math.isfinite(default) else units.UNKNOWN


def _means(pairs: Sequence[PairResult]) -> list[str]:
    """Return the geometric mean of cost over the default's, where there are several pairs."""
    if len({(p.workload.name, p.workload.gpu) for p in pairs}) < 2:
        return []
    found: dict[tuple[str, int], list[float]] = {}
    for result in pairs:
        for summary in result.summaries:
            if math.isfinite(summary.cost_default):
                key = (summary.policy, summary.recurrences)
                found.setdefault(key, []).append(summary.cost_ratio)
    rows = [
        [policy, str(count), f"{geometric_mean(ratios):.3f}", str(len(ratios))]
        for (policy, count), ratios in found.items()
    ]
    if not rows:
        return []
    header = ("policy", "N", "cost/default", "pairs")
    return ["", "Geometric mean over the pairs:", "", *table(header, rows)]


def group_lines(groups: Sequence[GroupSummary]) -> list[str]:
    """Return the table of the job groups replayed in time."""
    arrivals, seeds = groups[0].arrivals, groups[0].seeds
    rows = [
        [
            g.workload,
            g.gpu,
            g.policy,
            str(g.groups),
            str(g.runs),
            str(g.overlapping_runs),
            units.joules(g.energy_joules_mean),
            _ratio(g.energy_joules_mean, g.energy_joules_default),
            _ratio(g.time_seconds_mean, g.time_seconds_default),
            _ratio(g.cost_mean, g.cost_default),
            f"{g.failed_mean:.1f}",
        ]
        for g in groups
    ]
    header = (
        "workload",
        "GPU",
        "policy",
        "groups",
        "runs",
        "overlapping",
        "energy",
        "energy/default",
        "time/default",
        "cost/default",
        "no model",
    )
    return [
        f"Job groups in time, {arrivals} arrivals, mean of {seeds} seeds. Default: every run at "
        "the default batch size and full power, expected.",
        "",
        *table(header, rows, left=_NAMES),
    ]
