"""The journal behind a thread, so that a slow disk stops neither loop nor GPUs."""

from __future__ import annotations

from collections.abc import Collection

from zeus_agent.journal import Entry, Journal, Unread
from zeus_agent.limits import SavedLimit
from zeus_agent.worker import Worker

DISK_TIMEOUT_SECONDS = 5.0


class DurableLimits:
    """The journal behind a thread.

    Args:
        journal: the state folder.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._written_over: set[str] = set()  # GPUs whose entry is just being written over
        self._worker = Worker("journal")

    async def save(
        self, saved: SavedLimit, energy_millijoules: int | None, *, durable: bool
    ) -> None:
        """Store `saved`.

        Raises:
            OSError, WorkerTimeout: it is not known to be stored.
        """
        self._refuse_while_written_over(saved.gpu_uuid)
        await self._worker.call(
            lambda: self._journal.save(saved, energy_millijoules, durable=durable),
            DISK_TIMEOUT_SECONDS,
        )

    def save_over(self, saved: SavedLimit, energy_millijoules: int | None) -> None:
        """Store `saved` over what is stored for its GPU, in the thread that calls.

        For an entry that is there and keeps its first part: no disk is waited for, unless it
        hangs.

        Raises:
            OSError: it is not known to be stored.
        """
        self._written_over.add(saved.gpu_uuid)
        try:
            self._journal.save(saved, energy_millijoules, durable=False)
        finally:
            self._written_over.discard(saved.gpu_uuid)

    async def forget(self, gpu_uuid: str) -> None:
        """Remove what is stored.

        Raises:
            OSError, WorkerTimeout: it may still be there.
        """
        self._refuse_while_written_over(gpu_uuid)
        await self._worker.call(lambda: self._journal.forget(gpu_uuid), DISK_TIMEOUT_SECONDS)

    async def read_again(self, gpu_uuids: Collection[str]) -> tuple[dict[str, Entry], list[Unread]]:
        """Read what could not be read: see `Journal.read_again`.

        Raises:
            WorkerTimeout: the disk does not answer.
        """
        return await self._worker.call(
            lambda: self._journal.read_again(gpu_uuids), DISK_TIMEOUT_SECONDS
        )

    def _refuse_while_written_over(self, gpu_uuid: str) -> None:
        """A write that hangs comes to its end some day: nothing newer may be there then."""
        if gpu_uuid in self._written_over:
            raise OSError("an earlier write to the state folder has not returned")

    def stop(self) -> None:
        """End the thread."""
        self._worker.stop()
