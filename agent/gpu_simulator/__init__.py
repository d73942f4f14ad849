"""A simulated NVIDIA driver: GPUs with power limits, energy and faults, for any NVML client."""

from gpu_simulator.build import BuildError, build_library
from gpu_simulator.faults import FAULTS, UNTIL_CLEARED, Scope, Throttle, Unsupported
from gpu_simulator.library import OperatingPoint, models, predict, workloads
from gpu_simulator.state import (
    STATE_VARIABLE,
    VISIBLE_VARIABLE,
    MigInstance,
    SimulatedGpu,
    Simulator,
    SimulatorError,
    StateVersionError,
    WritableBy,
    create_state,
    environment,
)

__all__ = [
    "FAULTS",
    "STATE_VARIABLE",
    "UNTIL_CLEARED",
    "VISIBLE_VARIABLE",
    "BuildError",
    "MigInstance",
    "OperatingPoint",
    "Scope",
    "SimulatedGpu",
    "Simulator",
    "SimulatorError",
    "StateVersionError",
    "Throttle",
    "Unsupported",
    "WritableBy",
    "build_library",
    "create_state",
    "environment",
    "models",
    "predict",
    "workloads",
]
