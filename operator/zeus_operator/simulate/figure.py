"""One figure of a simulation: a row of plots for each workload and GPU model.

Matplotlib takes a second to import: import this module only where it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, NullLocator

from zeus_operator.simulate.curves import Curves
from zeus_operator.simulate.group_summary import GroupSummary
from zeus_operator.simulate.study import PairResult
from zeus_operator.simulate.workload import Workload

SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS = ("#1f6fb4", "#d95f02", "#3a923a", "#8a4ea3", "#7f6a4d", "#c2457f")
_MUTED = "#5f6670"
_ROW_INCHES, _GROUPS_INCHES, _WIDTH_INCHES = 2.5, 3.6, 15.0
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e5e9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "zeus-operator",  # the same figures give the same bytes
}


def draw(path: Path, pairs: Sequence[PairResult], groups: Sequence[GroupSummary]) -> None:
    """Write the figure; the name's end says whether as PNG, SVG or PDF.

    Args:
        path: the file.
        pairs: what was simulated run after run; may be empty if `groups` is not.
        groups: what was replayed in time.

    Raises:
        OSError: the file can't be written.
    """
    rows = _by_pair(pairs)
    policies = list(dict.fromkeys([p.policy for p in pairs] + [g.policy for g in groups]))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(policies)}
    heights = ([_ROW_INCHES * len(rows)] if rows else []) + ([_GROUPS_INCHES] if groups else [])
    with rc_context(_STYLE):
        drawing = Figure(figsize=(_WIDTH_INCHES, sum(heights) + 0.4), layout="constrained")
        parts = list(drawing.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)
        if rows:
            _draw_pairs(parts.pop(0), rows, colours)
        if groups:
            _draw_groups(parts.pop(0), groups, colours)
        drawing.savefig(path, dpi=110, metadata=_undated(path))


def _undated(path: Path) -> dict[str, None] | None:
    keys = {".svg": "Date", ".pdf": "CreationDate"}
    key = keys.get(path.suffix.lower())
    return {key: None} if key else None


def _by_pair(pairs: Sequence[PairResult]) -> list[list[PairResult]]:
    rows: dict[tuple[str, str], list[PairResult]] = {}
    for pair in pairs:
        rows.setdefault((pair.workload.name, pair.workload.gpu), []).append(pair)
    return list(rows.values())


_Line = Callable[[Curves], tuple[float, ...]]
_COLUMNS: tuple[tuple[str, _Line, float], ...] = (
    ("cumulative regret (costs of the best arm)", lambda c: c.regret, 0.0),
    ("cost / always the default", lambda c: c.cost_ratio, 1.0),
    ("energy / always the default", lambda c: c.energy_ratio, 1.0),
)


def _draw_pairs(
    part: SubFigure, rows: Sequence[Sequence[PairResult]], colours: dict[str, str]
) -> None:
    grid = part.subplots(len(rows), len(_COLUMNS) + 1, squeeze=False, sharex="col")
    for index, (axes, row) in enumerate(zip(grid, rows, strict=True)):
        for plot, (title, line, level) in zip(axes[:-1], _COLUMNS, strict=True):
            _draw_lines(plot, row, line, level, colours)
            if index == 0:
                plot.set_title(title, fontsize=10)
        _draw_batch_sizes(axes[-1], row, colours)
        workload = row[0].workload
        axes[0].set_ylabel(f"{workload.name}\n{workload.gpu}", fontweight="bold")
        if index == 0:
            axes[-1].set_title("batch size chosen: median, 10 to 90 %", fontsize=10)
    for plot in grid[-1]:
        plot.set_xlabel("recurrences")
        plot.xaxis.set_major_locator(MaxNLocator(integer=True))
        plot.set_xlim(0.5, len(rows[0][0].curves.regret) + 0.5)
    handles, labels = grid[0][0].get_legend_handles_labels()
    part.legend(handles, labels, loc="outside upper left", ncols=len(labels))


def _draw_lines(
    plot: Axes, row: Sequence[PairResult], line: _Line, level: float, colours: dict[str, str]
) -> None:
    plot.axhline(level, color=_MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    for result in row:
        values = line(result.curves)
        ends = range(1, len(values) + 1)
        plot.plot(
            ends,
            values,
            color=colours[result.policy],
            label=result.policy,
            linewidth=1.8,
            marker=_marker(values),
        )
        if not values:
            plot.text(
                0.5,
                0.5,
                "the default never reaches the target",
                transform=plot.transAxes,
                ha="center",
                color=_MUTED,
            )


def _marker(values: Sequence[float]) -> str:
    """Return a mark for a line of one point, which would not be seen."""
    return "o" if len(values) == 1 else ""


def _draw_batch_sizes(plot: Axes, row: Sequence[PairResult], colours: dict[str, str]) -> None:
    workload = row[0].workload
    for result in row:
        shown, colour = result.curves, colours[result.policy]
        ends = range(1, len(shown.batch_size_middle) + 1)
        plot.fill_between(
            ends,
            shown.batch_size_low,
            shown.batch_size_high,
            step="mid",
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        plot.step(
            ends,
            shown.batch_size_middle,
            where="mid",
            color=colour,
            linewidth=1.8,
            marker=_marker(shown.batch_size_middle),
        )
    _mark(plot, workload)
    sizes = workload.batch_sizes
    plot.set_yscale("log", base=2)
    plot.set_yticks(list(sizes), labels=[str(size) for size in sizes], fontsize=7)
    plot.yaxis.set_minor_locator(NullLocator())
    plot.set_ylim(sizes[0] / 1.4, sizes[-1] * 1.4)


def _mark(plot: Axes, workload: Workload) -> None:
    """Draw where the default and the best arm are."""
    marks = {workload.default_batch_size: "default"}
    best = workload.best_arm.batch_size
    marks[best] = "default and best" if best in marks else "best"
    for size, label in marks.items():
        plot.axhline(size, color=_MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        plot.annotate(
            label,
            xy=(1.0, size),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            color=_MUTED,
            fontsize=8,
        )


def _draw_groups(part: SubFigure, groups: Sequence[GroupSummary], colours: dict[str, str]) -> None:
    names = list(dict.fromkeys((g.workload, g.gpu) for g in groups))
    policies = list(dict.fromkeys(g.policy for g in groups))
    by_key = {(g.workload, g.gpu, g.policy): g for g in groups}
    arrivals = groups[0].arrivals
    part.suptitle(f"Job groups in time, {arrivals} arrivals, against always the default")
    width = 0.8 / len(policies)
    quantities: tuple[tuple[str, Callable[[GroupSummary], float]], ...] = (
        ("energy", lambda g: g.energy_joules_mean / g.energy_joules_default),
        ("time", lambda g: g.time_seconds_mean / g.time_seconds_default),
        ("cost", lambda g: g.cost_mean / g.cost_default),
    )
    for plot, (title, ratio) in zip(part.subplots(1, 3, squeeze=False)[0], quantities, strict=True):
        for index, policy in enumerate(policies):
            across = [i + width * (index + 0.5) - 0.4 for i in range(len(names))]
            heights = [ratio(by_key[(*name, policy)]) for name in names]
            plot.bar(across, heights, width=width * 0.9, color=colours[policy], label=policy)
        plot.axhline(1.0, color=_MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        plot.set_title(f"{title} / always the default", fontsize=10)
        plot.set_xticks(
            range(len(names)),
            labels=[f"{workload}\n{gpu}" for workload, gpu in names],
            rotation=30 if len(names) > 4 else 0,
            fontsize=7,
        )
        plot.grid(visible=False, axis="x")
    handles, labels = plot.get_legend_handles_labels()
    part.legend(handles, labels, loc="outside lower center", ncols=len(labels))
