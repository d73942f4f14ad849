"""A simulated machine with GPUs: made, read and changed from Python."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from gpu_simulator import library
from gpu_simulator.build import build_library
from gpu_simulator.faults import FAULTS, Scope, Unsupported

STATE_VARIABLE = "GPU_SIM_STATE"
VISIBLE_VARIABLE = "GPU_SIM_VISIBLE"

_MAX_GPUS = 16
_MAX_INSTANCES = 7
_TEXT_BYTES = 96


class SimulatorError(RuntimeError):
    """A state can't be made, opened or changed; the text says what to do."""


class StateVersionError(SimulatorError):
    """The file is a state of another version of the simulator; make it anew."""


class WritableBy(IntEnum):
    """Who may change limits besides root."""

    CREATOR = 0  # the user who made the state
    ROOT = 1  # nobody: as on a real machine
    ANYONE = 2


@dataclass(frozen=True)
class SimulatedGpu:
    """One GPU as it is now.  Limits in watts, energy since the state was made."""

    index: int
    uuid: str
    name: str
    model: str
    workload: str
    numbers: Mapping[str, float]

    @property
    def faults(self) -> dict[str, float]:
        """The faults that are on, by name."""
        return {name: self.numbers[name] for name in FAULTS if self.numbers[name] != 0}


@dataclass(frozen=True)
class MigInstance:
    """A part of a GPU: its UUID, profile ("1g.5gb") and GPU instance id."""

    uuid: str
    profile: str
    instance_id: int


class Simulator:
    """The state at `path`, shared with every process that uses it as its driver.

    Raises:
        StateVersionError: the file is of another version.
        SimulatorError: there is no state at `path`, or it can't be read and written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._library = library.load()
        ctypes.set_errno(0)
        self._map: int | None = self._library.gpuSimOpen(os.fsencode(self.path))
        if self._map is None:
            raise self._why_not()
        self.device_count = int(self.get("devices"))

    def _why_not(self) -> SimulatorError:
        if not self.path.exists():
            return SimulatorError(
                f"no simulated GPUs at {self.path}: make them with `gpu-sim create`"
            )
        if not os.access(self.path, os.R_OK | os.W_OK):
            return SimulatorError(f"no permission to read and write {self.path}")
        return StateVersionError(
            f"{self.path} is no state of this version: make it anew with `gpu-sim create`"
        )

    # ---- numbers ---------------------------------------------------------------------------

    def get(self, key: str, gpu: int | str | None = None) -> float:
        """Return number `key` of `gpu` (index or UUID), or of the whole state if that is None."""
        value = ctypes.c_double()
        error = self._library.gpuSimGet(
            self._map, self._position(gpu), key.encode(), ctypes.byref(value)
        )
        if error == errno.EPERM or error == errno.ENOENT:
            raise SimulatorError(self._unknown(key, gpu))
        if error:
            raise SimulatorError(f"can't read {key}: {os.strerror(error)}")
        return value.value

    def set(self, key: str, value: float, gpu: int | str | None = None) -> None:
        """Change number `key` of `gpu`, or of the whole state if that is None; at once."""
        error = self._library.gpuSimSet(self._map, self._position(gpu), key.encode(), value)
        if error == errno.ENOENT:
            raise SimulatorError(self._unknown(key, gpu))
        if error == errno.EPERM:
            raise SimulatorError(f"{key} can be read only")
        if error:
            raise SimulatorError(f"{key}={value:g} is out of range")

    @staticmethod
    def _unknown(key: str, gpu: int | str | None) -> str:
        known = ", ".join(library.keys(of_device=gpu is not None))
        return f"no number {key!r}; there are {known}"

    def _position(self, gpu: int | str | None) -> int:
        if gpu is None:
            return -1
        if isinstance(gpu, int):
            if 0 <= gpu < self.device_count:
                return gpu
            raise SimulatorError(f"no GPU {gpu}: there are {self.device_count}, from 0")
        for index in range(self.device_count):
            if self._text(index, "uuid") == gpu:
                return index
        raise SimulatorError(f"no GPU {gpu}")

    def _text(self, index: int, key: str) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        error = self._library.gpuSimGetText(self._map, index, key.encode(), buffer, len(buffer))
        if error:
            raise SimulatorError(f"can't read {key}: {os.strerror(error)}")
        return buffer.value.decode()

    # ---- devices ---------------------------------------------------------------------------

    def devices(self) -> tuple[SimulatedGpu, ...]:
        """Return every GPU as it is now."""
        return tuple(self.device(index) for index in range(self.device_count))

    def device(self, gpu: int | str) -> SimulatedGpu:
        """Return one GPU as it is now."""
        index = self._position(gpu)
        readable = [
            key
            for key in library.keys(of_device=True)
            if key not in ("counter_reset", "driver_reload")
        ]
        return SimulatedGpu(
            index=index,
            uuid=self._text(index, "uuid"),
            name=self._text(index, "name"),
            model=self._text(index, "model"),
            workload=self._text(index, "workload"),
            numbers={key: self.get(key, index) for key in readable},
        )

    def uuids(self) -> tuple[str, ...]:
        """Return the UUIDs in order."""
        return tuple(self._text(index, "uuid") for index in range(self.device_count))

    def power_limit_watts(self, gpu: int | str) -> float:
        """Return the limit that was last set."""
        return self.get("limit_watts", gpu)

    def enforced_limit_watts(self, gpu: int | str) -> float:
        """Return the limit that holds."""
        return self.get("enforced_limit_watts", gpu)

    def true_energy_joules(self, gpu: int | str) -> float:
        """Return the exact energy since the state was made."""
        return self.get("energy_joules", gpu)

    def foreign_limit(self, gpu: int | str, watts: float) -> None:
        """Change the limit as another tool on the machine would."""
        self.set("limit_watts", watts, gpu)

    def set_workload(self, gpu: int | str, workload: str) -> None:
        """Choose what work that names no workload is taken for."""
        error = self._library.gpuSimSetWorkload(self._map, self._position(gpu), workload.encode())
        if error:
            raise SimulatorError(_unknown_workload(workload))

    # ---- faults ----------------------------------------------------------------------------

    def set_fault(
        self,
        gpu: int | str,
        fault: str,
        value: float = 1,
        *,
        scope: Scope | None = None,
        calls: Unsupported | None = None,
        count: int = 0,
    ) -> None:
        """Turn `fault` (one of `FAULTS`) on while clients run.

        Args:
            gpu: index or UUID.
            fault: name in `FAULTS`.
            value: what the fault takes: an `Unsupported` or `Throttle` mask, an NVML error code,
                watts, seconds (`UNTIL_CLEARED` for a hang without end), else 1.
            scope: which calls an error, a hang or a delay applies to; None leaves it (all).
            calls: of an error: the groups that it hits; None: every call of the scope.
            count: of an error: how many calls it hits; 0: all until it is cleared.
        """
        if fault not in FAULTS:
            raise SimulatorError(f"no fault {fault!r}; there are {', '.join(FAULTS)}")
        if scope is not None:
            self.set("scope", scope, gpu)
        if fault == "error":
            self.set("error_calls", calls or 0, gpu)
            self.set("error_count", count, gpu)
        self.set(fault, value, gpu)

    def clear_fault(self, gpu: int | str, fault: str | None = None) -> None:
        """Turn `fault`, or every fault, off.  A GPU that was away comes back as after a reset."""
        if fault is not None and fault not in FAULTS:
            raise SimulatorError(f"no fault {fault!r}; there are {', '.join(FAULTS)}")
        for name in (fault,) if fault is not None else FAULTS:
            self.set(name, 0, gpu)
        if fault in (None, "error"):
            self.set("error_calls", 0, gpu)
            self.set("error_count", 0, gpu)
        if fault is None:
            self.set("scope", Scope.ALL, gpu)

    def reset_counter(self, gpu: int | str) -> None:
        """Set the energy counter to zero; nothing else changes."""
        self.set("counter_reset", 1, gpu)

    def reload_driver(self, gpu: int | str | None = None) -> None:
        """Load the driver anew: work is lost, the counter is zero, the limit at its default.

        A device with persistence mode keeps its limit.
        """
        for index in range(self.device_count) if gpu is None else (self._position(gpu),):
            self.set("driver_reload", 1, index)

    def unload_driver(self) -> None:
        """Take the driver away: every call answers DRIVER_NOT_LOADED, and all is forgotten.

        Limits, persistence mode, counters, MIG instances and work are lost on every GPU.
        """
        self.set("driver_unloaded", 1)

    def load_driver(self) -> None:
        """Load the driver again.  Who used it before has to initialise NVML anew."""
        self.set("driver_unloaded", 0)

    # ---- MIG -------------------------------------------------------------------------------

    def set_mig_mode(self, gpu: int | str, enabled: bool) -> None:
        """Switch MIG on or off at once; work and instances are lost.

        Raises:
            SimulatorError: the model has no MIG.
        """
        if enabled and not self.mig_profiles(gpu):
            raise SimulatorError(f"{self.device(gpu).name} has no MIG: use an A100 or H100")
        if self.mig_profiles(gpu):
            self.set("mig", enabled, gpu)

    def mig_profiles(self, gpu: int | str) -> tuple[str, ...]:
        """Return the profiles that the GPU can be cut into, none if it has no MIG."""
        index, found = self._position(gpu), list[str]()
        name = ctypes.create_string_buffer(_TEXT_BYTES)
        while not self._library.gpuSimMigProfile(self._map, index, len(found), name, len(name)):
            found.append(name.value.decode())
        return tuple(found)

    def create_instance(self, gpu: int | str, profile: str) -> MigInstance:
        """Cut one more instance out of the GPU.

        Raises:
            SimulatorError: MIG is off, no such profile, or no room.
        """
        index = self._position(gpu)
        uuid = ctypes.create_string_buffer(_TEXT_BYTES)
        error = self._library.gpuSimMigCreate(self._map, index, profile.encode(), uuid, len(uuid))
        if error == errno.EPERM:
            raise SimulatorError(f"MIG is off on GPU {index}: switch it on first")
        if error == errno.ENOENT:
            known = ", ".join(self.mig_profiles(gpu))
            raise SimulatorError(f"no MIG profile {profile!r}; there are {known}")
        if error:
            raise SimulatorError(f"GPU {index} has no room for a {profile}")
        made = uuid.value.decode()
        return next(found for found in self.instances(gpu) if found.uuid == made)

    def destroy_instance(self, gpu: int | str, uuid: str) -> None:
        """Remove an instance.

        Raises:
            SimulatorError: there is none of that UUID.
        """
        index = self._position(gpu)
        if self._library.gpuSimMigDestroy(self._map, index, uuid.encode()):
            raise SimulatorError(f"no MIG instance {uuid} on GPU {index}")

    def instances(self, gpu: int | str) -> tuple[MigInstance, ...]:
        """Return the instances of the GPU in NVML's order."""
        index, found = self._position(gpu), list[MigInstance]()
        for slot in range(_MAX_INSTANCES):
            uuid, profile = (ctypes.create_string_buffer(_TEXT_BYTES) for _ in range(2))
            number = ctypes.c_uint()
            if not self._library.gpuSimMigGet(
                self._map, index, slot, uuid, profile, _TEXT_BYTES, ctypes.byref(number)
            ):
                found.append(MigInstance(uuid.value.decode(), profile.value.decode(), number.value))
        return tuple(found)


def _unknown_workload(workload: str) -> str:
    return f"no workload {workload!r}; there are {', '.join(library.workloads())}"


def create_state(
    path: str | os.PathLike[str],
    models: Sequence[str] = ("V100",),
    *,
    tick_seconds: float = 0.1,
    noise: float = 0.0,
    workload: str = "shufflenetv2",
    time_scale: float = 1.0,
    seed: int = 0,
    writable_by: WritableBy = WritableBy.CREATOR,
    file_mode: int = 0o666,
) -> Simulator:
    """Make the state of a machine with `models`, replacing one that is there.

    Args:
        path: file to make; its folder must exist.  Processes that have an older state open
            keep that one until they initialise NVML again.
        models: keys of `library.models()`, one a GPU, at most 16.
        tick_seconds: period of the energy counter.
        noise: relative standard deviation of the time and the power of each step.
        workload: what work that names no workload is taken for.
        time_scale: multiplies the time of every step; power stays.
        seed: of the noise and of the UUIDs; the same seed gives the same machine.
        writable_by: who may change limits besides root.
        file_mode: of the file; a client must be able to read and write it.

    Raises:
        SimulatorError: an argument is out of range, or the file can't be written.
    """
    if not 1 <= len(models) <= _MAX_GPUS:
        raise SimulatorError(f"a machine has 1 to {_MAX_GPUS} GPUs, not {len(models)}")
    for model in models:
        if model not in library.models():
            raise SimulatorError(f"no GPU model {model!r}; there are {', '.join(library.models())}")
    if workload not in library.workloads():
        raise SimulatorError(_unknown_workload(workload))
    if not 1e-3 <= tick_seconds <= 10:
        raise SimulatorError(f"tick_seconds={tick_seconds:g} is not within 0.001 and 10")
    if not 0 <= noise <= 0.5:
        raise SimulatorError(f"noise={noise:g} is not within 0 and 0.5")
    if not 0 < time_scale <= 1e6:
        raise SimulatorError(f"time_scale={time_scale:g} is not within 0 and 1e6")
    if not 0 <= seed < 2**53:
        raise SimulatorError(f"seed={seed} is not within 0 and 2**53")
    names = (ctypes.c_char_p * len(models))(*(model.encode() for model in models))
    error = library.load().gpuSimCreate(
        os.fsencode(path),
        names,
        len(models),
        file_mode,
        int(writable_by),
        seed,
        tick_seconds,
        noise,
        time_scale,
        workload.encode(),
    )
    if error:
        raise SimulatorError(f"can't make {os.fspath(path)}: {os.strerror(error)}")
    return Simulator(path)


def environment(
    state_path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables under which a process sees the GPUs of `state_path` as its own.

    Args:
        state_path: file made by `create_state`.
        environ: environment to add to; its LD_LIBRARY_PATH is kept behind ours.
    """
    folder = str(build_library().parent)
    before = [part for part in environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    parts = [folder, *(part for part in before if part != folder)]
    return {
        "LD_LIBRARY_PATH": ":".join(parts),
        STATE_VARIABLE: str(Path(state_path).absolute()),
    }
