"""A simulated NVIDIA driver: GPUs with power limits, energy and faults, for any NVML client."""

from gpu_simulator.build import BuildError, build_library
from gpu_simulator.library import OperatingPoint, models, predict, workloads
from gpu_simulator.state import (
    FAULTS,
    STATE_VARIABLE,
    UNTIL_CLEARED,
    Scope,
    SimulatedGpu,
    Simulator,
    SimulatorError,
    StateVersionError,
    Unsupported,
    WritableBy,
    create_state,
    environment,
)

__all__ = [
    "FAULTS",
    "STATE_VARIABLE",
    "UNTIL_CLEARED",
    "BuildError",
    "OperatingPoint",
    "Scope",
    "SimulatedGpu",
    "Simulator",
    "SimulatorError",
    "StateVersionError",
    "Unsupported",
    "WritableBy",
    "build_library",
    "create_state",
    "environment",
    "models",
    "predict",
    "workloads",
]
