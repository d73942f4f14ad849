"""The report's figures of cost and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from zeus_operator.records import AttemptRecord, RecurrenceRecord, RecurrenceState
from zeus_operator.report import ink, units
from zeus_operator.report.estimate import Estimate
from zeus_runtime.protocol import Outcome

OUTCOMES: dict[Outcome, tuple[str, str, str]] = {
    Outcome.REACHED: ("o", ink.GOOD, "reached the target"),
    Outcome.COST_EXCEEDED: ("v", ink.WARN, "stopped: cost over the threshold"),
    Outcome.MAX_EPOCHS: ("s", ink.BAD, "target not reached in time"),
    Outcome.DIVERGED: ("X", ink.BAD, "diverged"),
    Outcome.OUT_OF_MEMORY: ("P", ink.BAD, "out of memory"),
}
_OTHER = ("D", ink.MUTED, "not learned from")


def cost_per_recurrence(learned: Sequence[RecurrenceRecord], default: Estimate | None) -> str:
    """Draw each recurrence's cost, split by success, against the default's mean and interval."""
    shown = [r for r in learned if r.cost_joules is not None]
    spent = [_cost(r, reached=True) for r in shown]
    lost = [_cost(r, reached=False) for r in shown]
    with ink.style():
        drawing, axes = ink.figure()
        ordinals = [r.ordinal for r in shown]
        axes.bar(ordinals, spent, width=0.72, color=ink.LEARNED, label="the attempt that reached")
        if any(lost):
            axes.bar(
                ordinals,
                lost,
                bottom=spent,
                width=0.72,
                color=ink.WARN,
                label="attempts before it, or in vain",
            )
        _default_band(axes, default)
        _recurrence_axis(axes, learned, "cost per recurrence")
        return ink.to_svg(drawing, "cost")


def cumulative_cost(learned: Sequence[RecurrenceRecord], default: Estimate) -> str:
    """Draw what was spent so far against what as many finished models of the default cost."""
    shown = [r for r in learned if r.cost_joules is not None]
    ordinals = [0, *(r.ordinal for r in shown)]
    total = [0.0, *accumulate(r.cost_joules or 0.0 for r in shown)]
    models = [0, *accumulate(int(r.state is RecurrenceState.REACHED) for r in shown)]
    with ink.style():
        drawing, axes = ink.figure()
        axes.plot(ordinals, total, color=ink.LEARNED, linewidth=2.2, label="learned")
        axes.plot(
            ordinals,
            [default.mean * n for n in models],
            color=ink.CONTROL,
            linewidth=1.8,
            linestyle=(0, (5, 3)),
            label="default configuration (mean of its runs)",
        )
        low, high = default.interval()
        axes.fill_between(
            ordinals,
            [low * n for n in models],
            [high * n for n in models],
            color=ink.CONTROL,
            alpha=0.16,
            linewidth=0,
        )
        _recurrence_axis(axes, learned, "cost so far")
        axes.set_xlim(left=0)
        return ink.to_svg(drawing, "cumulative")


def batch_sizes_tried(
    learned: Sequence[RecurrenceRecord], choices: Sequence[int], default: int
) -> str:
    """Draw which batch sizes were tried, and how each attempt ended."""
    with ink.style():
        drawing, axes = ink.figure(height=3.6)
        axes.axhline(default, color=ink.CONTROL, linewidth=1.6, linestyle=(0, (5, 3)))
        final = [(r.ordinal, r.attempts[-1].decision.batch_size) for r in learned]
        axes.plot(*zip(*final, strict=True), color=ink.GRID, linewidth=1.4, zorder=1)
        for outcome in (*OUTCOMES, None):
            marker, colour, label = OUTCOMES.get(outcome, _OTHER) if outcome else _OTHER
            points = [
                (_position(recurrence, attempt), attempt.decision.batch_size)
                for recurrence in learned
                for attempt in recurrence.attempts
                if (attempt.outcome if attempt.outcome in OUTCOMES else None) is outcome
            ]
            if points:
                across, up = zip(*points, strict=True)
                axes.scatter(
                    across,
                    up,
                    marker=marker,
                    s=52,
                    color=colour,
                    edgecolors=ink.PAPER,
                    linewidths=0.8,
                    label=label,
                    zorder=3,
                )
        # Those of an earlier manifest as well: they were tried.
        tried = {a.decision.batch_size for r in learned for a in r.attempts}
        sizes = sorted({*choices, *tried})
        axes.set_yscale("log", base=2)
        axes.set_yticks(sizes, labels=[str(size) for size in sizes])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(sizes[0] / 1.35, sizes[-1] * 1.35)
        axes.annotate(
            "default",
            xy=(1.0, default),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=ink.CONTROL,
            fontsize=9,
        )
        _recurrence_axis(axes, learned, "batch size", joules=False)
        return ink.to_svg(drawing, "batch")


def _cost(recurrence: RecurrenceRecord, *, reached: bool) -> float:
    return sum(
        attempt.cost_joules or 0.0
        for attempt in recurrence.attempts
        if (attempt.outcome is Outcome.REACHED) is reached
    )


def _position(recurrence: RecurrenceRecord, attempt: AttemptRecord) -> float:
    """Return where an attempt stands: the last on its recurrence, the others just before."""
    return recurrence.ordinal - 0.16 * (len(recurrence.attempts) - attempt.number)


def _default_band(axes: Axes, default: Estimate | None) -> None:
    if default is None:
        return
    axes.axhline(
        default.mean,
        color=ink.CONTROL,
        linewidth=1.8,
        linestyle=(0, (5, 3)),
        label=f"default configuration, mean of {default.runs}",
    )
    axes.axhspan(*default.interval(), color=ink.CONTROL, alpha=0.16, linewidth=0)


def _recurrence_axis(
    axes: Axes, learned: Sequence[RecurrenceRecord], label: str, *, joules: bool = True
) -> None:
    axes.set_xlabel("recurrence")
    axes.set_ylabel(label)
    axes.set_xlim(min(r.ordinal for r in learned) - 0.9, max(r.ordinal for r in learned) + 0.9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if joules:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(units.joules_tick))
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=4,
            borderaxespad=0.2,
            handlelength=2.4,
        )
