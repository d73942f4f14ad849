"""Fits the simulated GPU's workloads to measurements and reports the error.

    ZEUS_GPU_PROFILES=... ZEUS_TRACES=... python -m benchmarks.gpu_model.fit [--write]

Without `--write` the checked-in parameters are held against the measurements and the exit code
is 1 where they are further off than the thresholds.  With it they are fitted anew, and the
simulator's parameter table, `fit.json` beside this file and the plot in the documentation are
replaced.  The model evaluated here is the C code that runs (`gpuSimEvaluate`), not a second one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.gpu_model import measured, report
from gpu_simulator import library

ROOT = Path(__file__).resolve().parents[2]
FITS = Path(__file__).with_name("fit.json")
TABLE = ROOT / "agent" / "gpu_simulator" / "native" / "workload_table.inc"

# Zeus profiles a limit for 40 steps by default; the window files do not say.
STEPS_PER_WINDOW = 40
# Windows count more than the steps of the traces: they are what the fit is asked to match.
WINDOW_WEIGHT = 3.0

NAMES = (
    "host_seconds",
    "host_sample_seconds",
    "gpu_fixed_seconds",
    "gpu_sample_seconds",
    "clock_share",
    "overlap",
    "static_watts",
    "dynamic_watts",
    "exponent",
    "knee_clock",
    "gap_watts",
)
LOW = np.array([1e-4, 1e-7, 1e-5, 1e-6, 0.3, 1.0, 20.0, 40.0, 1.0, 0.2, 25.0])
HIGH = np.array([2e-1, 1e-2, 1e-1, 1e-1, 1.0, 12.0, 110.0, 400.0, 3.5, 0.95, 110.0])
START = np.array([3e-2, 1e-4, 8e-3, 1e-3, 0.9, 4.0, 50.0, 180.0, 2.0, 0.5, 60.0])
_LOGARITHMIC = np.array([True] * 4 + [False] * 7)

# Bounds of (samples of a step, steps) in a window.  The sentences of BERT's windows are longer
# than those of its trace, which shows as work that is worth more steps.
WINDOW_LOW = {"shufflenetv2": (32, 30), "resnet18": (32, 30), "resnet50": (32, 30), "bert": (8, 10)}
WINDOW_HIGH = {
    "shufflenetv2": (512, 50),
    "resnet18": (512, 50),
    "resnet50": (512, 50),
    "bert": (512, 400),
}

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Fitted parameters of one workload on one GPU.

    Args:
        parameters: in the order of `NAMES`.
        window_samples: batch size of the windows, fitted (they do not record it).
        window_scale: work of a window, in steps of that batch size.
    """

    gpu: str
    workload: str
    parameters: tuple[float, ...]
    window_samples: float
    window_scale: float


def fit(gpu: str, workload: str, like: Fit | None) -> Fit:
    """Fit `workload` on `gpu`.

    A workload without a trace by batch size keeps the fixed times and the batch size of the
    windows of `like`: one batch size can't tell them apart.
    """
    windows = measured.windows(gpu, workload)
    steps = measured.steps(gpu, workload)
    if not steps and like is None:
        raise ValueError(f"{workload} has no trace and no workload to be like")

    def unpack(x: Vector) -> tuple[list[float], float, float]:
        values = np.where(_LOGARITHMIC, np.exp(x[:11]), x[:11]).tolist()
        samples, scale = float(np.exp(x[11])), float(np.exp(x[12]))
        if not steps and like is not None:
            values[0], values[2] = like.parameters[0], like.parameters[2]
            samples, scale = like.window_samples, like.window_scale
        return values, samples, scale

    def residuals(x: Vector) -> Vector:
        values, samples, scale = unpack(x)
        out: list[float] = []
        for window in windows:
            point = library.evaluate(values, samples, window.limit_watts)
            out.append(WINDOW_WEIGHT * np.log(point.seconds * scale / window.seconds))
            out.append(WINDOW_WEIGHT * np.log(point.joules * scale / window.joules))
        for step in steps:
            point = library.evaluate(values, step.samples, step.limit_watts)
            out.append(np.log(point.seconds / step.seconds))
            out.append(np.log(point.joules / step.joules))
        return np.array(out)

    low = np.concatenate([np.where(_LOGARITHMIC, np.log(LOW), LOW), np.log(WINDOW_LOW[workload])])
    high = np.concatenate(
        [np.where(_LOGARITHMIC, np.log(HIGH), HIGH), np.log(WINDOW_HIGH[workload])]
    )
    best = None
    for exponent in (1.2, 2.0, 3.0):
        for knee in (0.3, 0.6, 0.8):
            start = START.copy()
            start[8], start[9] = exponent, knee
            x = np.concatenate([np.where(_LOGARITHMIC, np.log(start), start), np.log([256, 38])])
            # soft_l1: some of the measurements are disturbed by seconds (see the report).
            found = least_squares(
                residuals, x, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale="jac"
            )
            if best is None or found.cost < best.cost:
                best = found
    assert best is not None
    values, samples, scale = unpack(best.x)
    # Rounded as the table writes them, so that what is reported is what runs.
    rounded = tuple(float(f"{value:.6g}") for value in values)
    return Fit(gpu, workload, rounded, round(samples, 1), round(scale, 3))


def fit_all() -> list[Fit]:
    """Fit every measured GPU and workload."""
    fits: list[Fit] = []
    for gpu in measured.GPUS:
        of_gpu: dict[str, Fit] = {}
        for workload in ("shufflenetv2", "resnet50", "bert", "resnet18"):
            of_gpu[workload] = fit(gpu, workload, of_gpu.get("resnet50"))
        fits.extend(of_gpu[workload] for workload in measured.NETWORKS)
    return fits


# (from, time of GPU and loading, time of the rest of the host, static watts, dynamic watts).
# Rough ratios of training throughput and of board power; nothing here was measured.
SCALED = {
    "A100": ("V100", 1 / 2.0, 0.85, 1.0, 2.0),
    "H100": ("V100", 1 / 4.0, 0.75, 1.7, 3.3),
}


def scaled(row: Fit, gpu: str) -> Fit:
    """Return `row` for a GPU that was not measured."""
    _, gpu_time, host_time, static, dynamic = SCALED[gpu]
    # Loading a sample scales with the GPU: machines are built so that it keeps up.
    factors = (host_time, gpu_time, gpu_time, gpu_time, 1, 1, static, dynamic, 1, 1, static)
    values = tuple(float(f"{p * f:.6g}") for p, f in zip(row.parameters, factors, strict=True))
    return Fit(gpu, row.workload, values, row.window_samples, row.window_scale)


def write_table(fits: list[Fit]) -> None:
    """Write the rows the C library is compiled with."""
    lines = [
        "/* Made by benchmarks/gpu_model/fit.py; A100 and H100 are scaled, not measured. */",
        *(_row(fit) for fit in fits),
        *(
            _row(scaled(fit, gpu))
            for gpu, (source, *_) in SCALED.items()
            for fit in fits
            if fit.gpu == source
        ),
    ]
    TABLE.write_text("\n".join(lines) + "\n")


def _row(fit: Fit) -> str:
    numbers = ", ".join(f"{value:.6g}" for value in fit.parameters)
    return f'{{"{fit.gpu}", "{fit.workload}", {{{numbers}}}}},'


def compare(fits: list[Fit]) -> Iterator[report.Comparison]:
    """Hold the parameters of `fits` against every measurement."""
    for fit in fits:
        values = list(fit.parameters)
        for window in measured.windows(fit.gpu, fit.workload):
            point = library.evaluate(values, fit.window_samples, window.limit_watts)
            yield report.Comparison(
                fit.gpu,
                fit.workload,
                "window",
                fit.window_samples,
                window.limit_watts,
                (window.seconds, point.seconds * fit.window_scale),
                (window.joules, point.joules * fit.window_scale),
            )
        for step in measured.steps(fit.gpu, fit.workload):
            point = library.evaluate(values, step.samples, step.limit_watts)
            yield report.Comparison(
                fit.gpu,
                fit.workload,
                "step",
                step.samples,
                step.limit_watts,
                (step.seconds, point.seconds),
                (step.joules, point.joules),
            )


def checked_in() -> list[Fit]:
    """Return the fits as checked in, with the parameters that the library runs with."""
    return [
        Fit(**{**raw, "parameters": tuple(library.parameters(raw["gpu"], raw["workload"]))})
        for raw in json.loads(FITS.read_text())
    ]


def main() -> int:
    """Fit or check; exit code 1: too far off, 2: the measurements are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="fit anew and replace the files")
    options = parser.parse_args()
    try:
        if options.write:
            fits = fit_all()
            write_table(fits)
            FITS.write_text(json.dumps([asdict(fit) for fit in fits], indent=1) + "\n")
        else:
            fits = checked_in()
        comparisons = list(compare(fits))
    except measured.MissingMeasurementsError as error:
        print(f"gpu_model: {error}", file=sys.stderr)
        return 2
    print(report.as_text(comparisons))
    if options.write:
        report.plot(comparisons, ROOT / "docs" / "reference" / "gpu-simulator-fit.svg")
    return report.verdict(comparisons)


if __name__ == "__main__":
    sys.exit(main())
