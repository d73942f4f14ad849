"""Which GPUs runs on this machine use: the real ones, or a simulated one where there is none."""

from __future__ import annotations

import enum
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pynvml

import gpu_simulator
from zeus_operator.local.home import Home, make_private

SETTINGS_VARIABLE = "ZEUS_SIMULATED_GPU"


class GpuError(Exception):
    """There is no such GPU here; the text says what to do."""


class GpuChoice(enum.StrEnum):
    """What the user asked for."""

    AUTO = "auto"
    REAL = "real"
    SIMULATED = "simulated"
    NONE = "none"


@dataclass(frozen=True)
class SimulatedGpuSettings:
    """The simulated GPU of the local mode.

    The defaults suit training that takes milliseconds a step on a CPU, like the digits
    example: a real V100's counter ticks every 100 ms, which is as long as one of its epochs, so
    the simulated one ticks five times as fast, and works at the scale of those steps.
    """

    models: tuple[str, ...] = ("V100",)
    tick_milliseconds: float = 20.0
    noise: float = 0.01
    workload: str = "shufflenetv2"
    time_scale: float = 0.15
    seed: int = 0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> SimulatedGpuSettings:
        """Return the defaults, changed by the JSON object in ZEUS_SIMULATED_GPU.

        Raises:
            GpuError: the variable is not such an object.
        """
        text = environ.get(SETTINGS_VARIABLE)
        if not text:
            return cls()
        try:
            raw = json.loads(text)
            if "models" in raw:
                raw["models"] = tuple(raw["models"])
            return cls(**raw)
        except (ValueError, TypeError) as error:
            allowed = ", ".join(cls.__dataclass_fields__)
            raise GpuError(
                f"{SETTINGS_VARIABLE} must be a JSON object with any of {allowed}: {error}"
            ) from None

    @property
    def digest(self) -> str:
        """A short name for these settings: other settings are another device."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Gpus:
    """The GPUs that runs may use.

    Args:
        uuids: as NVML gives them; empty: train without.
        folder: where their agent keeps its files.
        machine: whose they are, for their locks; "": this machine's.
        environment: what makes them visible to a process.
        notice: one sentence for people; "" if there is nothing to say.
    """

    uuids: tuple[str, ...]
    folder: Path
    models: tuple[str, ...] = ()
    simulated: bool = False
    machine: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    notice: str = ""


def choose_gpus(
    home: Home, choice: GpuChoice = GpuChoice.AUTO, environ: Mapping[str, str] = os.environ
) -> Gpus:
    """Return the GPUs to use; makes the simulated one where it is wanted.

    Raises:
        GpuError: real ones are asked for and there is none, or none can be simulated.
    """
    if choice is GpuChoice.NONE:
        return Gpus((), home.agent, notice="training without a GPU: no energy is measured")
    if choice is not GpuChoice.SIMULATED:
        found = visible_gpus(real_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))
        if found:
            uuids, models = zip(*found, strict=True)
            return Gpus(uuids, home.agent, models)
        if choice is GpuChoice.REAL:
            raise GpuError(
                "no NVIDIA GPU found (NVML shows none, or CUDA_VISIBLE_DEVICES hides them); "
                "use --gpu simulated or --gpu none"
            )
    return _simulated_gpus(home, choice, environ)


def real_gpus() -> tuple[tuple[str, str], ...]:
    """Return (UUID, model) of each GPU that NVML shows, in the order of the PCI bus."""
    try:
        with _nvml():
            handles = [
                pynvml.nvmlDeviceGetHandleByIndex(index)
                for index in range(pynvml.nvmlDeviceGetCount())
            ]
            return tuple(
                (str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle)))
                for handle in handles
            )
    except pynvml.NVMLError:
        return ()


def visible_gpus(
    gpus: tuple[tuple[str, str], ...], visible: str | None
) -> tuple[tuple[str, str], ...]:
    """Return those of `gpus` that a CUDA_VISIBLE_DEVICES of `visible` leaves.

    As CUDA reads it: indices or (beginnings of) UUIDs, and the first entry that names none ends
    the list.
    """
    if visible is None:
        return gpus
    found: list[tuple[str, str]] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            matching = gpus[int(entry) : int(entry) + 1]
        else:
            matching = tuple(gpu for gpu in gpus if entry and gpu[0].startswith(entry))
        if len(matching) != 1 or matching[0] in found:
            break
        found.append(matching[0])
    return tuple(found)


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _simulated_gpus(home: Home, choice: GpuChoice, environ: Mapping[str, str]) -> Gpus:
    settings = SimulatedGpuSettings.from_environment(environ)
    folder = home.simulated / settings.digest
    make_private(folder)
    state = folder / "gpu.state"
    renewed = ""
    try:
        with _locked(folder / "creation.lock"):
            try:
                # Kept from run to run: limits last until the driver is reloaded, as on a real one.
                simulator = gpu_simulator.Simulator(state)
            except gpu_simulator.StateVersionError:
                renewed = "; made anew, since it was of another version"
                simulator = _make_simulator(state, settings)
            except gpu_simulator.SimulatorError:
                if state.exists():
                    raise
                simulator = _make_simulator(state, settings)
        devices = simulator.devices()
        environment = gpu_simulator.environment(state, environ)
    except (gpu_simulator.SimulatorError, gpu_simulator.BuildError) as error:
        raise GpuError(f"no GPU can be simulated: {error}") from None
    names = ", ".join(settings.models)
    why = "no NVIDIA GPU found: " if choice is GpuChoice.AUTO else ""
    return Gpus(
        uuids=tuple(device.uuid for device in devices),
        folder=folder,
        models=tuple(f"{device.name} (simulated)" for device in devices),
        simulated=True,
        machine=str(folder.resolve()),  # the same settings elsewhere give the same UUIDs
        environment=environment,
        notice=f"{why}using a simulated {names} (figures are simulated){renewed}",
    )


def _make_simulator(state: Path, settings: SimulatedGpuSettings) -> gpu_simulator.Simulator:
    return gpu_simulator.create_state(
        state,
        models=settings.models,
        tick_seconds=settings.tick_milliseconds / 1000.0,
        noise=settings.noise,
        workload=settings.workload,
        time_scale=settings.time_scale,
        seed=settings.seed,
        file_mode=0o600,
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other programs from making the same device at the same moment."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
