"""The GPU of this process, read through NVML.

NVML numbers devices by PCI address and shows all of them, whatever
CUDA_VISIBLE_DEVICES says; so the device is chosen here as CUDA does and then
known by its UUID only.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Set, TypeVar, Union

import pynvml

from zeus_runtime.simulated import SimulatedWork

T = TypeVar("T")


class GpuUnavailable(Exception):  # noqa: N818 -- a state of the world, nobody's error
    """The GPU can't be read; the text says why, for people."""


@dataclass(frozen=True)
class GpuFacts:
    """What does not change while a run goes on.  Limits in watts; None: the device won't say.

    Args:
        count: how many GPUs train; the other facts but `model` are of rank 0's.
        all_max_watts: largest limits that can be set, summed over them; None: they are one.
    """

    uuid: str
    model: str
    driver: str
    simulated: bool = False
    min_limit_watts: Optional[float] = None
    max_limit_watts: Optional[float] = None
    default_limit_watts: Optional[float] = None
    has_energy_counter: bool = True
    count: int = 1
    all_max_watts: Optional[float] = None

    @property
    def max_power_watts(self) -> float:
        """The largest limits that can be set, summed over all GPUs; 0: not known."""
        return self.all_max_watts or self.max_limit_watts or 0.0


@dataclass(frozen=True)
class _Device:
    """A device as NVML finds it.

    Args:
        bus_id: its PCI address.
        pci_id: device and vendor, which all devices of a model have in common.
    """

    bus_id: str
    pci_id: int
    handle: Any


class Gpu:
    """One open device.

    Args:
        facts: who it is.
        work: where training steps are declared, on a simulated GPU.
    """

    def __init__(self, facts: GpuFacts, handle: Any, work: Optional[SimulatedWork]) -> None:
        self.facts = facts
        self.work = work
        self._handle = handle

    def of_team(self, facts: GpuFacts) -> Gpu:
        """Return this device with the facts of all that train together."""
        return Gpu(facts, self._handle, self.work)

    def read_energy_joules(self) -> float:
        """Return the energy counter.

        Raises:
            GpuUnavailable: NVML does not answer that.
        """
        return float(_ask(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))) / 1e3

    def read_power_watts(self) -> float:
        """Return the power drawn now.

        Raises:
            GpuUnavailable: NVML does not answer that.
        """
        return float(_ask(lambda: pynvml.nvmlDeviceGetPowerUsage(self._handle))) / 1e3

    def reopen(self) -> None:
        """Start NVML anew, as is needed after a lost GPU or a reload of the driver.

        Raises:
            GpuUnavailable: it is not back yet.
        """
        self.close()
        _ask(pynvml.nvmlInit)
        self._handle = _ask(lambda: pynvml.nvmlDeviceGetHandleByUUID(self.facts.uuid))

    def close(self) -> None:
        """Let NVML go."""
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def open_gpu(environ: Mapping[str, str] = os.environ, uuid: Optional[str] = None) -> Gpu:
    """Open the GPU that this process trains on.

    Args:
        environ: CUDA_VISIBLE_DEVICES chooses; without it the first device by PCI address.
            Indices count only where CUDA's order is known.
        uuid: of the device, if torch has told it; wins over the environment.

    Raises:
        GpuUnavailable: there is no NVML, no such device, or only a part of one.
    """
    wanted = uuid if uuid is not None else first_visible_device(environ)
    _ask(pynvml.nvmlInit)
    try:
        handle = _find(wanted, environ)
        _refuse_part_of_a_board(handle)
        return _describe(handle, environ)
    except BaseException:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
        raise


def first_visible_device(environ: Mapping[str, str]) -> Union[str, int]:
    """Return the first entry of CUDA_VISIBLE_DEVICES, a UUID (or its beginning) or an index.

    Raises:
        GpuUnavailable: it hides every GPU, names a MIG instance, or can't be read.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return 0
    first = listed.split(",")[0].strip()
    if first.startswith("GPU-"):
        return first
    if first.startswith("MIG-"):
        raise GpuUnavailable(
            f"CUDA_VISIBLE_DEVICES names the MIG instance {first}: the energy counter is the "
            "whole board's, so the energy of this run is unknown"
        )
    try:
        index = int(first) if first else -1
    except ValueError:
        raise GpuUnavailable(
            f"CUDA_VISIBLE_DEVICES={listed!r} is neither an index nor a UUID"
        ) from None
    if index < 0:
        raise GpuUnavailable(f"CUDA_VISIBLE_DEVICES={listed!r} hides every GPU")
    return index


def _ask(call: Callable[[], T]) -> T:
    """Make an NVML call; its error becomes a sentence."""
    try:
        return call()
    except pynvml.NVMLError as error:
        raise GpuUnavailable(f"NVML: {error}") from None


def _find(wanted: Union[str, int], environ: Mapping[str, str]) -> Any:
    count = int(_ask(pynvml.nvmlDeviceGetCount))
    devices = []
    for index in range(count):
        # One sick device must not hide the others.
        with contextlib.suppress(pynvml.NVMLError):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            pci = pynvml.nvmlDeviceGetPciInfo(handle)
            devices.append(_Device(_text(pci.busId), int(pci.pciDeviceId), handle))
    devices.sort(key=lambda device: device.bus_id)
    if isinstance(wanted, int):
        if wanted >= count:
            raise GpuUnavailable(f"there is no GPU {wanted}: NVML shows {count}")
        if len(devices) < count:
            raise GpuUnavailable(
                f"which GPU is number {wanted} can't be told, as {count - len(devices)} of {count} "
                "do not answer: name it by UUID in CUDA_VISIBLE_DEVICES"
            )
        _refuse_another_order(wanted, devices, environ)
        return devices[wanted].handle
    found = []
    for handle in (device.handle for device in devices):
        with contextlib.suppress(pynvml.NVMLError):
            if _text(pynvml.nvmlDeviceGetUUID(handle)).startswith(wanted):
                found.append(handle)
    if len(found) > 1:
        raise GpuUnavailable(f"{wanted} is the beginning of {len(found)} GPUs' UUIDs")
    if not found:
        raise GpuUnavailable(f"NVML shows no GPU {wanted}")
    return found[0]


def _refuse_another_order(index: int, devices: List[_Device], environ: Mapping[str, str]) -> None:
    """Refuse to guess which of several models an index means.

    CUDA numbers the fastest model first, unless told to go by the PCI bus; of one model it goes
    by the PCI bus anyway.
    """
    if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return
    models = _models(devices)
    if len(models) > 1:
        raise GpuUnavailable(
            f"which GPU CUDA calls {index} can't be told where there are several models "
            f"({', '.join(sorted(models))}): name it by UUID in CUDA_VISIBLE_DEVICES, or set "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )


def _models(devices: List[_Device]) -> Set[str]:
    """Return the models that there are; a device that does not say its name goes by its id."""
    names = [(_name_if_told(device.handle), device.pci_id) for device in devices]
    told = {pci_id for name, pci_id in names if name is not None}
    nameless = {pci_id for name, pci_id in names if name is None} - told
    models = {name for name, _ in names if name is not None}
    return models | {f"PCI device {pci_id:#010x}" for pci_id in nameless}


def _name_if_told(handle: Any) -> Optional[str]:
    try:
        return _model(handle)
    except GpuUnavailable:
        return None


def _refuse_part_of_a_board(handle: Any) -> None:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:
        return  # a GPU without MIG
    if current == pynvml.NVML_DEVICE_MIG_ENABLE:
        raise GpuUnavailable(
            "the GPU is divided by MIG: its energy counter is the whole board's, so the energy "
            "of this run is unknown"
        )


def _describe(handle: Any, environ: Mapping[str, str]) -> Gpu:
    uuid = _text(_ask(lambda: pynvml.nvmlDeviceGetUUID(handle)))
    work = SimulatedWork.of_library(pynvml.nvmlLib, uuid, environ)
    model = _model(handle)
    low = high = default = None
    with contextlib.suppress(pynvml.NVMLError):
        low, high = (
            watts / 1e3 for watts in pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
        )
    with contextlib.suppress(pynvml.NVMLError):
        default = pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1e3
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        counts = True
    except pynvml.NVMLError:
        counts = False
    facts = GpuFacts(
        uuid=uuid,
        model=f"{model} (simulated)" if work else model,
        driver=_text(_ask(pynvml.nvmlSystemGetDriverVersion)),
        simulated=work is not None,
        min_limit_watts=low,
        max_limit_watts=high,
        default_limit_watts=default,
        has_energy_counter=counts,
    )
    return Gpu(facts, handle, work)


def _model(handle: Any) -> str:
    return _text(_ask(lambda: pynvml.nvmlDeviceGetName(handle)))


def _text(value: Union[str, bytes]) -> str:
    """Older nvidia-ml-py returns bytes."""
    return value.decode() if isinstance(value, bytes) else value
