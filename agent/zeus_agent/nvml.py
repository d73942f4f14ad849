"""NVML, by UUID only.  Every function blocks and is meant for a worker thread."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

import pynvml

from zeus_agent.limits import Bounds, is_same_limit
from zeus_agent.throttling import reasons_of
from zeus_agent.worker import Steps

Timer = Callable[[str, float], None]
"""Is told the name of each NVML function that was called and the seconds it took."""

_NOT_FOUND = 6
_HANDLE_BY_UUID = "nvmlDeviceGetHandleByUUID"
_EVENT_REASONS = "nvmlDeviceGetCurrentClocksEventReasons"
_THROTTLE_REASONS = "nvmlDeviceGetCurrentClocksThrottleReasons"  # its name before driver 535
_MIG_ENABLED = 1
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
        if code == _NOT_FOUND and call == _HANDLE_BY_UUID:
            self.kind = Kind.LOST  # the machine no longer shows this GPU
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
    throttling: frozenset[str] | None = None


def _no_timer(name: str, seconds: float) -> None:
    """Time nothing."""


def _call(name: str, *arguments: object, timer: Timer = _no_timer) -> object:
    """Call an NVML function; repeat what may pass by itself.

    Raises:
        NvmlFailure: it failed.
    """
    function: Callable[..., object] = getattr(pynvml, name)
    for attempt in range(1, _RETRIES + 1):
        begin = time.perf_counter()
        try:
            return function(*arguments)
        except pynvml.NVMLError as error:
            code = int(error.value)
            if _KINDS.get(code) is not Kind.TRANSIENT or attempt == _RETRIES:
                raise NvmlFailure(code, name, str(error)) from None
        finally:
            timer(name, time.perf_counter() - begin)
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
    """One GPU; not safe to share between threads: all but `learn_again` is its worker's."""

    def __init__(self, uuid: str, timer: Timer = _no_timer) -> None:
        self.uuid = uuid
        self._timer = timer
        self._handle: object | None = None
        self._unsupported: set[str] = set()

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

    def change_limit(
        self, expected_milliwatts: int, milliwatts: int, is_wanted: Callable[[], bool]
    ) -> tuple[int, int | None]:
        """Set the power limit if what is there is what is expected.

        Args:
            expected_milliwatts: what should be there.
            milliwatts: what to set.
            is_wanted: asked between looking and setting.

        Returns:
            what was found, and what was read back after setting (if need be); None: nothing was
            set.
        """
        found = self.limit()
        if not is_same_limit(found, expected_milliwatts) or not is_wanted():
            return found, None
        return found, found if found == milliwatts else self.set_limit(milliwatts)

    def set_limit(self, milliwatts: int) -> int:
        """Set the power limit and return what is read back, milliwatts.

        Uses the first version of the call: nvidia-ml-py drops the return code of the second.
        """
        self._get("nvmlDeviceSetPowerManagementLimit", milliwatts)
        return self.limit()

    def persistence(self) -> bool | None:
        """Return whether persistence mode is on; None: this GPU has none."""
        mode = self._optional("nvmlDeviceGetPersistenceMode")
        return None if mode is None else mode != 0

    def set_persistence(self, on: bool) -> None:
        """Turn persistence mode on or off."""
        self._get("nvmlDeviceSetPersistenceMode", int(on))

    def mig_uuids(self) -> frozenset[str]:
        """Return the UUIDs of the MIG devices that the GPU is divided into now."""
        try:
            modes = self._get("nvmlDeviceGetMigMode")  # the one now, the one after a reset
            if int(modes[0]) != _MIG_ENABLED:  # type: ignore[index]  # two integers
                return frozenset()
            count = int(str(self._get("nvmlDeviceGetMaxMigDeviceCount")))
        except NvmlFailure as error:
            if error.kind in (Kind.UNSUPPORTED, Kind.PERMISSION):
                return frozenset()
            raise
        uuids = (self._mig_uuid(index) for index in range(count))
        return frozenset(uuid for uuid in uuids if uuid is not None)

    def names(self) -> Steps[frozenset[str]]:
        """Read by what a kubelet may know the GPU and its parts, beside its UUID.

        Those are the UUIDs of its MIG devices and the name of its device file (`nvidia0`), whose
        number comes last: it is of after whatever has gone between the steps.
        """
        migs = self.mig_uuids()
        yield
        number = self._optional("nvmlDeviceGetMinorNumber")
        return migs if number is None else migs | {f"nvidia{number}"}

    def read(self) -> Steps[Reading]:
        """Look at limit, power, energy and throttling, in steps: others may go between them.

        Raises:
            NvmlFailure: the GPU does not answer (one that can't tell a value answers).
        """
        limit = self._optional("nvmlDeviceGetPowerManagementLimit")
        yield
        enforced = self._optional("nvmlDeviceGetEnforcedPowerLimit")
        yield
        power = self._optional("nvmlDeviceGetPowerUsage")
        yield
        throttling = self._throttling()
        yield
        energy = self._optional("nvmlDeviceGetTotalEnergyConsumption")
        return Reading(limit, enforced, power, energy, throttling)

    def learn_again(self) -> None:
        """Forget which calls this GPU did not support; a driver may have been updated.

        From any thread: a call that is being made may be taken for unsupported once more.
        """
        self._unsupported.clear()

    def _throttling(self) -> frozenset[str] | None:
        mask = self._optional(_EVENT_REASONS)
        if mask is None:
            mask = self._optional(_THROTTLE_REASONS)
        return None if mask is None else reasons_of(mask)

    def _mig_uuid(self, index: int) -> str | None:
        try:
            handle = self._get("nvmlDeviceGetMigDeviceHandleByIndex", index)
        except NvmlFailure as error:
            if error.code == _NOT_FOUND:
                return None  # a place that no instance takes
            raise
        return _text(_call("nvmlDeviceGetUUID", handle, timer=self._timer))

    def _optional(self, name: str) -> int | None:
        """Call a function that this GPU may not support; such a call is dropped for a while."""
        if name in self._unsupported:
            return None
        try:
            return int(str(self._get(name)))
        except NvmlFailure as error:
            if error.kind in (Kind.UNSUPPORTED, Kind.PERMISSION):
                self._unsupported.add(name)
                return None
            raise

    def _get(self, name: str, *arguments: object) -> object:
        if self._handle is None:
            self._handle = _call(_HANDLE_BY_UUID, self.uuid, timer=self._timer)
        try:
            return _call(name, self._handle, *arguments, timer=self._timer)
        except NvmlFailure as error:
            # An argument may be refused because the handle is of before an initialization.
            if error.kind in (Kind.LOST, Kind.DRIVER, Kind.UNKNOWN, Kind.ARGUMENT):
                self._handle = None
            raise
