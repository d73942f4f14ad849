"""NVML, by UUID only.  Every function blocks and is meant for a worker thread."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

import pynvml

from zeus_agent.leases import Bounds

_RETRIES = 3
_RETRY_PAUSE_SECONDS = 0.02


class Kind(enum.Enum):
    """What an NVML error asks for."""

    DRIVER = "driver"  # 1 9 18: initialize again, with back-off
    ARGUMENT = "argument"  # 2: the bounds have changed; look again
    UNSUPPORTED = "unsupported"  # 3 13 21 25: this GPU can't do this
    PERMISSION = "permission"  # 4: read-only
    TRANSIENT = "transient"  # 10 19 27: again, a bounded number of times
    LOST = "lost"  # 15 16 28: this GPU is out until it answers
    ABSENT = "absent"  # 12: no library
    UNKNOWN = "unknown"  # 17 999 and whatever is not listed: count it


_KINDS = {
    1: Kind.DRIVER,
    9: Kind.DRIVER,
    18: Kind.DRIVER,
    2: Kind.ARGUMENT,
    3: Kind.UNSUPPORTED,
    13: Kind.UNSUPPORTED,
    21: Kind.UNSUPPORTED,
    25: Kind.UNSUPPORTED,
    4: Kind.PERMISSION,
    10: Kind.TRANSIENT,
    19: Kind.TRANSIENT,
    27: Kind.TRANSIENT,
    15: Kind.LOST,
    16: Kind.LOST,
    28: Kind.LOST,
    12: Kind.ABSENT,
}


class NvmlFailure(Exception):  # noqa: N818 -- an answer of the driver
    """NVML said no.

    Attributes:
        code: NVML's return code.
        kind: what it asks for.
        call: the NVML function.
    """

    def __init__(self, code: int, call: str, text: str = "") -> None:
        self.code = code
        self.kind = _KINDS.get(code, Kind.UNKNOWN)
        self.call = call
        super().__init__(f"{call}: {text or 'NVML error'} ({code})")


@dataclass(frozen=True)
class Identity:
    """What a GPU is; read once per initialization."""

    uuid: str
    index: int
    model: str
    default_milliwatts: int | None
    bounds: Bounds | None


@dataclass(frozen=True)
class Reading:
    """One look at a GPU.  None: this GPU does not tell."""

    limit_milliwatts: int | None
    enforced_milliwatts: int | None
    power_milliwatts: int | None
    energy_millijoules: int | None


def _call(name: str, *arguments: object) -> object:
    """Call an NVML function; repeat what may pass by itself.

    Raises:
        NvmlFailure: it failed.
    """
    function: Callable[..., object] = getattr(pynvml, name)
    for attempt in range(1, _RETRIES + 1):
        try:
            return function(*arguments)
        except pynvml.NVMLError as error:
            code = int(error.value)
            if _KINDS.get(code) is not Kind.TRANSIENT or attempt == _RETRIES:
                raise NvmlFailure(code, name, str(error)) from None
            time.sleep(_RETRY_PAUSE_SECONDS * attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@dataclass(frozen=True)
class Library:
    """What NVML says of itself after initialization."""

    driver: str
    simulated: bool


def initialize() -> Library:
    """Initialize NVML.

    Raises:
        NvmlFailure: no library, no driver, or they don't match.
    """
    _call("nvmlInit")
    driver = _text(_call("nvmlSystemGetDriverVersion"))
    return Library(driver, simulated=hasattr(pynvml.nvmlLib, "gpuSimVersion"))


def shut_down() -> None:
    """Give NVML back; errors don't matter, as the next initialization tells."""
    try:
        _call("nvmlShutdown")
    except NvmlFailure:
        return


def device_count() -> int:
    """Return how many GPUs NVML shows now."""
    return int(str(_call("nvmlDeviceGetCount")))


def uuid_at(index: int) -> str:
    """Return the UUID of the GPU that NVML has at `index` now."""
    return _text(_call("nvmlDeviceGetUUID", _call("nvmlDeviceGetHandleByIndex", index)))


class Device:
    """One GPU; not safe to share between threads, its worker alone uses it."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self._handle: object | None = None
        self._unsupported: dict[str, NvmlFailure] = {}

    def identify(self) -> Identity:
        """Read what does not change, and learn anew what this GPU can do."""
        self._handle = None
        self._unsupported.clear()
        index = self._get("nvmlDeviceGetIndex")
        default = self._optional("nvmlDeviceGetPowerManagementDefaultLimit")
        return Identity(
            uuid=self.uuid,
            index=int(str(index)),
            model=_text(self._get("nvmlDeviceGetName")),
            default_milliwatts=default,
            bounds=self.bounds(),
        )

    def bounds(self) -> Bounds | None:
        """Read the limits that the GPU accepts; None if it does not tell."""
        try:
            found = self._get("nvmlDeviceGetPowerManagementLimitConstraints")
        except NvmlFailure as error:
            if error.kind is not Kind.UNSUPPORTED:
                raise
            return None
        low, high = (int(value) for value in found)  # type: ignore[attr-defined]  # two integers
        return Bounds(low, high)

    def limit(self) -> int:
        """Return the power limit, milliwatts."""
        return int(str(self._get("nvmlDeviceGetPowerManagementLimit")))

    def limit_and_energy(self) -> tuple[int, int | None]:
        """Return the power limit, milliwatts, and then the energy counter, millijoules.

        In this order: a counter that has not fallen tells that the limit is of before a reset.
        """
        return self.limit(), self._optional("nvmlDeviceGetTotalEnergyConsumption")

    def set_limit(self, milliwatts: int) -> int:
        """Set the power limit and return what is read back, milliwatts.

        Uses the first version of the call: nvidia-ml-py drops the return code of the second.
        """
        self._get("nvmlDeviceSetPowerManagementLimit", milliwatts)
        return self.limit()

    def read(self) -> Reading:
        """Look at limit, power and energy.

        Raises:
            NvmlFailure: the GPU does not answer (one that can't tell a value answers).
        """
        return Reading(
            limit_milliwatts=self._optional("nvmlDeviceGetPowerManagementLimit"),
            enforced_milliwatts=self._optional("nvmlDeviceGetEnforcedPowerLimit"),
            power_milliwatts=self._optional("nvmlDeviceGetPowerUsage"),
            energy_millijoules=self._optional("nvmlDeviceGetTotalEnergyConsumption"),
        )

    def learn_again(self) -> None:
        """Forget which calls this GPU did not support; a driver may have been updated."""
        self._unsupported.clear()

    def _optional(self, name: str) -> int | None:
        """Call a function that this GPU may not support; such a call is dropped for a while."""
        if name in self._unsupported:
            return None
        try:
            return int(str(self._get(name)))
        except NvmlFailure as error:
            if error.kind is Kind.UNSUPPORTED:
                self._unsupported[name] = error
                return None
            raise

    def _get(self, name: str, *arguments: object) -> object:
        if self._handle is None:
            self._handle = _call("nvmlDeviceGetHandleByUUID", self.uuid)
        try:
            return _call(name, self._handle, *arguments)
        except NvmlFailure as error:
            # An argument may be refused because the handle is of before an initialization.
            if error.kind in (Kind.LOST, Kind.DRIVER, Kind.UNKNOWN, Kind.ARGUMENT):
                self._handle = None
            raise
