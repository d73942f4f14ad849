"""What earlier agents have left on disk: taken over, dropped after a reboot, or waited for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from zeus_agent.durable import DurableLimits
from zeus_agent.journal import Entry, Journal, Unread
from zeus_agent.leases import LeaseMachine
from zeus_agent.logs import note
from zeus_agent.worker import WorkerTimeout

logger = logging.getLogger("zeus_agent.keeper")

_NOT_THERE = "an earlier agent left a limit to restore; its GPU is not there yet"


class Inheritance:
    """The entries that no machine has taken over yet.

    Args:
        journal: where they are.
        disk: reads them again where the disk had failed.
        on_left: is told, once, what can't be put back (yet): GPU UUID, reason.
    """

    def __init__(
        self, journal: Journal, disk: DurableLimits, on_left: Callable[[str, str], None]
    ) -> None:
        self.late: set[str] = set()  # UUIDs of entries that could not be read at the start
        self._journal = journal
        self._disk = disk
        self._on_left = on_left
        self._entries: dict[str, Entry] = {}
        self._set_aside: set[str] = set()
        self._were_reset: set[str] = set()

    def load(self) -> None:
        """Read what there is."""
        self._entries, unread = self._journal.load()
        self._note_unread(unread)

    def tell_absent(self) -> None:
        """Tell of GPUs that are not there to have their limit back."""
        for uuid, entry in self._entries.items():
            watts = entry.saved.previous_milliwatts / 1000.0
            note(logger, logging.WARNING, _NOT_THERE, gpu=uuid, watts=watts)
            self._on_left(uuid, _NOT_THERE)

    def device_reset(self, gpu_uuid: str) -> None:
        """Note that a GPU that has no machine yet was reset."""
        self._were_reset.add(gpu_uuid)

    def adopt(
        self, machine: LeaseMachine, energy_millijoules: int | None, *, survives_boot: bool
    ) -> bool:
        """Hand a GPU's entry to its machine; return whether there was one to hand over.

        Args:
            machine: of the GPU.
            energy_millijoules: the GPU's energy counter now, if it has one.
            survives_boot: the driver keeps limits over a reboot.
        """
        uuid = machine.gpu_uuid
        entry = self._entries.get(uuid)
        if entry is None or not (self._is_void(entry, survives_boot) or machine.adopt(entry.saved)):
            return False
        del self._entries[uuid]
        self.late.discard(uuid)
        self._journal.admit(uuid)
        if self._is_void(entry, survives_boot):
            self._drop(uuid)
        elif uuid in self._were_reset or entry.tells_reset(energy_millijoules):
            machine.device_reset()
        return True

    def drop_void(self, *, survives_boot: bool) -> None:
        """Drop the entries of GPUs that are not there if a reboot has reset them anyway."""
        for uuid, entry in list(self._entries.items()):
            if self._is_void(entry, survives_boot):
                del self._entries[uuid]
                self.late.discard(uuid)
                self._journal.admit(uuid)
                self._drop(uuid)

    async def read_again(self) -> None:
        """Read what the disk did not give before."""
        uuids = self.late - self._entries.keys()
        try:
            entries, unread = await self._disk.read_again(uuids)
        except WorkerTimeout:
            return
        self._entries.update(entries)
        self._note_unread([each for each in unread if not each.may_pass])

    @property
    def pending(self) -> int:
        """How many limits there may be to be put back, by this agent or by a person."""
        return len(self._entries.keys() | self.late) + len(self._set_aside)

    @property
    def left(self) -> list[str]:
        """The GPUs whose limits the next agent has to put back."""
        return sorted(self._entries.keys() | self.late)

    def _note_unread(self, unread: list[Unread]) -> None:
        for each in unread:
            note(logger, logging.ERROR, "saved limit unreadable", reason=each.reason)
            self._on_left(each.gpu_uuid, each.reason)
            if each.may_pass:
                self.late.add(each.gpu_uuid)
            else:
                self.late.discard(each.gpu_uuid)
                self._set_aside.add(each.gpu_uuid)
                self._journal.admit(each.gpu_uuid)

    def _is_void(self, entry: Entry, survives_boot: bool) -> bool:
        return entry.boot_id != self._journal.boot_id and not survives_boot

    def _drop(self, gpu_uuid: str) -> None:
        with contextlib.suppress(OSError):  # seen again, and dropped again, at the next start
            self._journal.forget(gpu_uuid)
        text = "a limit saved before a reboot is dropped; the reboot has reset it"
        note(logger, logging.INFO, text, gpu=gpu_uuid)
