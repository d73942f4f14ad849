"""How far the GPU model is from the measurements: tables, a plot, a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

# Relative errors in percent over the windows of all GPUs and workloads.  The largest belong to
# single disturbed measurements and to a board that draws more than its limit.
MEAN_TIME_PERCENT = 3.0
MEAN_ENERGY_PERCENT = 3.0
MAX_TIME_PERCENT = 20.0
MAX_ENERGY_PERCENT = 12.0


@dataclass(frozen=True)
class Comparison:
    """One measurement and what the model says; pairs are (measured, model)."""

    gpu: str
    workload: str
    kind: str  # "window" or "step"
    samples: float
    limit_watts: float
    seconds: tuple[float, float]
    joules: tuple[float, float]

    @property
    def time_percent(self) -> float:
        """Relative error of time."""
        return 100 * (self.seconds[1] / self.seconds[0] - 1)

    @property
    def energy_percent(self) -> float:
        """Relative error of energy."""
        return 100 * (self.joules[1] / self.joules[0] - 1)


def _mean_and_max(errors: Iterable[float]) -> tuple[float, float]:
    sizes = [abs(error) for error in errors]
    return sum(sizes) / len(sizes), max(sizes)


def _summary(title: str, rows: Sequence[Comparison]) -> str:
    time = _mean_and_max(row.time_percent for row in rows)
    energy = _mean_and_max(row.energy_percent for row in rows)
    return (
        f"{title:<28} {len(rows):>4} {time[0]:>9.1f} {time[1]:>6.1f} "
        f"{energy[0]:>11.1f} {energy[1]:>6.1f}"
    )


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Return the errors: each window, then mean and largest per GPU and workload."""
    lines = ["Relative error of the windows, model against measured (percent)"]
    windows = [row for row in comparisons if row.kind == "window"]
    for (gpu, workload), group in groupby(windows, key=lambda row: (row.gpu, row.workload)):
        rows = list(group)
        lines += [
            f"\n{gpu} {workload}",
            "  limit W  " + " ".join(f"{row.limit_watts:>6.0f}" for row in rows),
            "  time     " + " ".join(f"{row.time_percent:>+6.1f}" for row in rows),
            "  energy   " + " ".join(f"{row.energy_percent:>+6.1f}" for row in rows),
        ]
    lines.append(f"\n{'':<28} {'n':>4} {'time mean':>9} {'max':>6} {'energy mean':>11} {'max':>6}")
    for kind, named in (("window", "windows"), ("step", "batch sizes and limits")):
        chosen = [row for row in comparisons if row.kind == kind]
        for (gpu, workload), group in groupby(chosen, key=lambda row: (row.gpu, row.workload)):
            lines.append(_summary(f"{gpu} {workload}, {kind}", list(group)))
        lines.append(_summary(f"all {named}", chosen))
    return "\n".join(lines)


def verdict(comparisons: Sequence[Comparison]) -> int:
    """Return 0 if the windows are met within the thresholds of this module, else 1."""
    windows = [row for row in comparisons if row.kind == "window"]
    time = _mean_and_max(row.time_percent for row in windows)
    energy = _mean_and_max(row.energy_percent for row in windows)
    good = (
        time[0] <= MEAN_TIME_PERCENT
        and time[1] <= MAX_TIME_PERCENT
        and energy[0] <= MEAN_ENERGY_PERCENT
        and energy[1] <= MAX_ENERGY_PERCENT
    )
    return 0 if good else 1


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw time and energy of the windows against the limit, measured and model."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gpu-simulator"  # the same data gives the same file
    from matplotlib import pyplot as plt

    gpus = sorted({row.gpu for row in comparisons}, reverse=True)
    workloads = list(dict.fromkeys(row.workload for row in comparisons))
    figure, axes = plt.subplots(
        2, len(gpus), figsize=(4.6 * len(gpus), 6), sharex="col", squeeze=False
    )
    for column, gpu in enumerate(gpus):
        for colour, workload in zip(plt.rcParams["axes.prop_cycle"], workloads, strict=False):
            rows = [
                row
                for row in comparisons
                if (row.gpu, row.workload, row.kind) == (gpu, workload, "window")
            ]
            limits = [row.limit_watts for row in rows]
            for axis, name in ((axes[0][column], "seconds"), (axes[1][column], "joules")):
                pairs = [getattr(row, name) for row in rows]
                unit = pairs[0][0]  # relative to what was measured at the highest limit
                axis.plot(limits, [m / unit for m, _ in pairs], "o", **colour)
                axis.plot(limits, [p / unit for _, p in pairs], "-", label=workload, **colour)
        axes[0][column].set_title(f"{gpu}: points measured, lines model")
        axes[1][column].set_xlabel("power limit (W)")
    axes[0][0].set_ylabel("time, relative")
    axes[1][0].set_ylabel("energy, relative")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
