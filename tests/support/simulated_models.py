"""The GPUs of the simulator as models for training in virtual time.

What a step takes and draws is asked of the C library that runs when the GPU is simulated, so
that its true optimum is known.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from gpu_simulator import OperatingPoint, library, predict
from tests.support.virtual_training import GPUS, ModelledGpu, VirtualTraining
from zeus_runtime.power_profile import candidate_limits

BATCH_SIZES = {
    "shufflenetv2": (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "resnet18": (8, 16, 32, 64, 128, 192, 256, 360, 512),
    "resnet50": (8, 16, 32, 64, 128, 192, 256, 360, 512),
    "bert": (8, 16, 32, 64, 128, 256),
}
"""Of each workload: those at which its power was measured (docs/reference/gpu-simulator.md)."""

STEPS_PER_EPOCH = (5, 5000)
TICKS_SECONDS = (0.02, 0.1)
"""Of the energy counter."""

ETA = 0.5
SAME_COST = 1e-9
"""Relative; where no limit is reached, several are the optimum."""

BESIDE_COST = 0.01
"""What a limit beside the optimum may cost more."""


@functools.cache
def _point(model: str, workload: str, batch_size: int, limit_watts: float) -> OperatingPoint:
    return predict(model, workload, batch_size, limit_watts)


@dataclass(frozen=True)
class SimulatedModel(ModelledGpu):
    """A GPU model of the simulator at one workload and batch size."""

    workload: str = "resnet50"
    batch_size: int = 8

    @classmethod
    def of(cls, gpu: ModelledGpu, workload: str, batch_size: int) -> SimulatedModel:
        """Return the simulator's model of the same name and limits."""
        row = library.parameters(gpu.name, workload)
        share, static, dynamic, exponent = row[4], row[6], row[7], row[8]
        return cls(
            *(gpu.name, gpu.min_watts, gpu.max_watts, static, dynamic, share, exponent),
            workload=workload,
            batch_size=batch_size,
        )

    @property
    def limits(self) -> tuple[float, ...]:
        """The limits that a profile may hold, descending."""
        return candidate_limits(self.min_watts, self.max_watts, self.max_watts)

    @property
    def full_speed_seconds(self) -> float:
        """Time of a step where no limit slows it."""
        return _point(self.name, self.workload, self.batch_size, self.max_watts).seconds

    def seconds(self, full_speed_seconds: float, limit: float) -> float:
        here = _point(self.name, self.workload, self.batch_size, limit).seconds
        return full_speed_seconds * here / self.full_speed_seconds

    def watts(self, limit: float) -> float:
        return _point(self.name, self.workload, self.batch_size, limit).watts

    def excess(self, held: float) -> tuple[int, float]:
        """Return how many limits `held` is from the nearest optimum, and its cost above that."""
        costs = [self.step_cost(limit, ETA) for limit in self.limits]
        least = min(costs)
        place = min(range(len(costs)), key=lambda i: abs(self.limits[i] - held))
        best = [i for i, cost in enumerate(costs) if cost <= least * (1.0 + SAME_COST)]
        return min(abs(place - i) for i in best), costs[place] / least - 1.0


def every_model() -> tuple[SimulatedModel, ...]:
    """Return every batch size of every workload on each of the four GPU models."""
    return tuple(
        SimulatedModel.of(gpu, workload, size)
        for gpu in GPUS
        for workload, sizes in BATCH_SIZES.items()
        for size in sizes
    )


@dataclass(frozen=True)
class Profiled:
    """How a profile ended.

    Args:
        held: watts.
        places: between the limit held and the optimum; 1: beside it.
        excess: cost above the optimum's, relative.
        epochs: trained until the limit was held.
    """

    model: SimulatedModel
    steps_per_epoch: int
    tick_seconds: float
    noise: float
    seed: int
    held: float
    places: int
    excess: float
    epochs: int

    @property
    def holds(self) -> bool:
        """Whether it is the optimum, or beside it at nearly the same cost."""
        return self.places == 0 or (self.places == 1 and self.excess <= BESIDE_COST)

    def __str__(self) -> str:
        model = self.model
        return (
            f"{model.name} {model.workload}, batch size {model.batch_size}, epochs of "
            f"{self.steps_per_epoch} steps, tick of {1000 * self.tick_seconds:g} ms, noise of "
            f"{100 * self.noise:g} %, seed {self.seed}: {self.held:g} W, {self.places} limits from "
            f"the optimum, {100 * self.excess:.2f} % above it"
        )


def profiled(
    model: SimulatedModel, steps_per_epoch: int, tick_seconds: float, noise: float, seed: int
) -> Profiled:
    """Train in virtual time until a limit is held."""
    run = VirtualTraining(
        model,
        step_seconds=model.full_speed_seconds,
        steps_per_epoch=steps_per_epoch,
        tick_seconds=tick_seconds,
        noise=noise,
        eta=ETA,
        seed=seed,
    )
    run.train_until_held()
    held = run.control.held_watts
    assert held is not None
    places, excess = model.excess(held)
    return Profiled(
        *(model, steps_per_epoch, tick_seconds, noise, seed),
        held=held,
        places=places,
        excess=excess,
        epochs=run.epochs,
    )
