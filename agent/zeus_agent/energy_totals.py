"""The energy of each GPU since the agent was first there, never falling, over all restarts.

Bills rest on it: a `_total` that falls is taken for one that began again at zero,
and then all of it is counted twice.  So each total is kept on disk with the
driver's counter at that time.  After a restart the counter tells what was used
meanwhile.  Where the counter may have begun again, and the agent was killed before
it could write its last total, the total goes on from the most that can have been
shown.  That holds as long as writes are late by 5 seconds at most: where the disk
takes none for longer, and then come both a kill and a reset, the total may fall.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeus_agent.journal import write_file

_FORMAT = 1
_FILE = "energy.json"
WRITE_PERIOD_SECONDS = 10.0
_LATE_SECONDS = 5.0  # for which a write may be late
_MAX_WATTS_UNKNOWN = 1500.0  # of a GPU that does not tell its limits


def _boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class EnergyMeter:
    """Adds up an energy counter that starts again from zero when the driver is reloaded.

    Args:
        total_joules: of all time.
        last_millijoules: the counter's last reading; None: none yet.
    """

    total_joules: float = 0.0
    last_millijoules: int | None = None
    _earlier: StoredEnergy | None = None
    _at_most_since_joules: float = 0.0

    def carry_on(self, earlier: StoredEnergy, seconds_since: float | None) -> None:
        """Go on from what an earlier agent stored; the first reading tells what came since.

        Args:
            earlier: what it stored.
            seconds_since: how long ago; None: in another boot, since when the counter is another.
        """
        self.total_joules = earlier.joules
        self._earlier = earlier
        self._at_most_since_joules = (
            math.inf if seconds_since is None else earlier.max_watts * seconds_since
        )

    def add(self, millijoules: int) -> bool:
        """Take a reading of the counter; return whether it was reset since the last one."""
        last = self.last_millijoules
        self.last_millijoules = millijoules
        if last is None:
            self._catch_up(millijoules)
            return False
        was_reset = millijoules < last
        self.total_joules += (millijoules if was_reset else millijoules - last) / 1000.0
        return was_reset

    def _catch_up(self, millijoules: int) -> None:
        earlier, self._earlier = self._earlier, None
        if earlier is None:
            return
        joules, before = millijoules / 1000.0, earlier.counter_millijoules / 1000.0
        is_other_boot = self._at_most_since_joules == math.inf
        since = joules if is_other_boot or joules < before else joules - before
        self.total_joules = earlier.joules + since
        # One that began again since can't stand higher than the GPU can have drawn.
        may_have_begun_again = joules < before or joules <= self._at_most_since_joules
        if may_have_begun_again and not earlier.is_last:
            self.total_joules = max(self.total_joules, earlier.shown_at_most_joules)


@dataclass(frozen=True)
class StoredEnergy:
    """What is on disk of one GPU.

    Args:
        joules: the total.
        counter_millijoules: the driver's counter at that time.
        max_watts: what the GPU can draw.
        is_last: the agent showed no other total after it.
        boot_id: in which boot.
        boot_seconds: how long after its beginning.
    """

    joules: float
    counter_millijoules: int
    max_watts: float
    is_last: bool
    boot_id: str
    boot_seconds: float

    @property
    def shown_at_most_joules(self) -> float:
        """The most that can have been shown before the next write was due, and a little late.

        Of writes that fail for longer it knows nothing.
        """
        if self.is_last:
            return self.joules
        return self.joules + self.max_watts * (WRITE_PERIOD_SECONDS + _LATE_SECONDS)


class EnergyTotals:
    """The file of totals.

    Args:
        folder: the state folder.
        boot_id: of this boot.
        boot_clock: seconds since its beginning.
    """

    def __init__(
        self, folder: Path, boot_id: str, boot_clock: Callable[[], float] = _boot_seconds
    ) -> None:
        self._path = folder / _FILE
        self._boot_id = boot_id
        self._boot_clock = boot_clock
        self._stored: dict[str, StoredEnergy] = {}

    def load(self) -> str:
        """Read what an earlier agent has left; return why that can't be read, or ""."""
        try:
            self._stored = _parse_all(self._path.read_bytes())
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._stored = {}
            return f"{self._path} can't be read ({error}); energy is counted from zero"
        return ""

    def meter(self, gpu_uuid: str) -> EnergyMeter:
        """Return the meter of a GPU that has just been found."""
        meter = EnergyMeter()
        stored = self._stored.get(gpu_uuid)
        if stored is not None:
            is_same_boot = stored.boot_id == self._boot_id
            since = self._boot_clock() - stored.boot_seconds
            meter.carry_on(stored, max(0.0, since) if is_same_boot else None)
        return meter

    def document(
        self, meters: Iterable[tuple[str, EnergyMeter, float | None]], *, last: bool
    ) -> str:
        """Return the file's next content; the caller writes it where it delays nobody.

        Args:
            meters: UUID, meter, and highest limit in watts (None: not known) of each GPU.
            last: nothing is shown after it.
        """
        gpus = dict(self._stored)  # a GPU that is away now may come back
        for uuid, meter, max_watts in meters:
            if meter.last_millijoules is None:
                continue
            gpus[uuid] = StoredEnergy(
                joules=meter.total_joules,
                counter_millijoules=meter.last_millijoules,
                max_watts=_MAX_WATTS_UNKNOWN if max_watts is None else max_watts,
                is_last=last,
                boot_id=self._boot_id,
                boot_seconds=self._boot_clock(),
            )
        self._stored = gpus
        entries = {uuid: dataclasses.asdict(each) for uuid, each in gpus.items()}
        return json.dumps({"format": _FORMAT, "gpus": entries})

    def write(self, document: str) -> None:
        """Replace the file; blocks.

        Raises:
            OSError: it could not be written; what was there before still is.
        """
        write_file(self._path, document.encode(), durable=False)


def _parse_all(data: bytes) -> dict[str, StoredEnergy]:
    raw = json.loads(data)
    if raw["format"] != _FORMAT:
        raise ValueError(f"format {raw['format']}")
    return {str(uuid): _parse(entry) for uuid, entry in raw["gpus"].items()}


def _parse(entry: Mapping[str, Any]) -> StoredEnergy:
    stored = StoredEnergy(
        joules=float(entry["joules"]),
        counter_millijoules=int(entry["counter_millijoules"]),
        max_watts=float(entry["max_watts"]),
        is_last=bool(entry["is_last"]),
        boot_id=str(entry["boot_id"]),
        boot_seconds=float(entry["boot_seconds"]),
    )
    figures = (stored.joules, stored.counter_millijoules, stored.max_watts, stored.boot_seconds)
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures):
        raise ValueError(f"energy {dict(entry)}")
    return stored
