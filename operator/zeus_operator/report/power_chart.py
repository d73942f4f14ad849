"""The report's figure of power limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from zeus_operator.report import ink, units
from zeus_operator.report.findings import CurvePoint, PowerCurve

_PANELS: tuple[tuple[str, Callable[[CurvePoint], float], Callable[[float, int], str]], ...] = (
    ("cost per 1,000 samples", lambda p: p.cost_joules, units.joules_tick),
    ("energy per 1,000 samples", lambda p: p.energy_joules, units.joules_tick),
    ("time per 1,000 samples", lambda p: p.time_seconds, units.seconds_tick),
)


def power_limits(curves: Sequence[PowerCurve]) -> str:
    """Draw cost, energy and time against the power limit, one line for each batch size.

    The limit of least cost is marked on each cost curve.
    """
    scale = mpl.colormaps["viridis"]
    with ink.style():
        drawing = Figure(figsize=(9.6, 3.5), layout="constrained")
        panels = drawing.subplots(1, len(_PANELS))
        for axes, (label, quantity, shown) in zip(panels, _PANELS, strict=True):
            for index, curve in enumerate(curves):
                position = 0.12 + 0.73 * index / max(1, len(curves) - 1)
                colour = scale(position)
                limits = [p.power_limit_watts for p in curve.points]
                axes.plot(
                    limits,
                    [quantity(p) for p in curve.points],
                    color=colour,
                    linewidth=1.8,
                    marker="o",
                    markersize=3.2,
                    label=str(curve.batch_size),
                )
                if quantity is _PANELS[0][1]:
                    best = min(curve.points, key=lambda p: p.cost_joules)
                    axes.plot(
                        best.power_limit_watts,
                        best.cost_joules,
                        marker="o",
                        markersize=9,
                        markerfacecolor="none",
                        markeredgecolor=colour,
                        markeredgewidth=1.8,
                    )
            axes.set_title(label, fontsize=10.5, color=ink.INK, loc="left")
            axes.set_xlabel("power limit, W")
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(FuncFormatter(shown))
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(
            handles,
            labels,
            title="batch size",
            loc="outside right center",
            title_fontsize=9.5,
            alignment="left",
            labelcolor=ink.INK,
        )
        return ink.to_svg(drawing, "power")
