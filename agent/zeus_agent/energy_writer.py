"""Writes the totals of energy now and then, where it delays nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from zeus_agent.energy_totals import WRITE_PERIOD_SECONDS, EnergyMeter, EnergyTotals
from zeus_agent.gpu import Gpu
from zeus_agent.journal import Journal
from zeus_agent.logs import note
from zeus_agent.worker import Worker, WorkerTimeout

logger = logging.getLogger("zeus_agent.energy")

WRITE_TIMEOUT_SECONDS = 5.0


class EnergyWriter:
    """The totals of energy, behind a thread of their own: limits never wait for them.

    Args:
        journal: whose state folder, and lock on it, is used.
    """

    def __init__(self, journal: Journal) -> None:
        self._totals = EnergyTotals(journal.folder, journal.boot_id)
        self._worker = Worker("energy totals")
        self._problem = ""

    def load(self) -> None:
        """Go on from what an earlier agent has left."""
        problem = self._totals.load()
        if problem:
            note(logger, logging.ERROR, "energy totals unreadable", reason=problem)

    def meter(self, gpu_uuid: str) -> EnergyMeter:
        """Return the meter of a GPU that has just been found."""
        return self._totals.meter(gpu_uuid)

    async def write_forever(self, gpus: Mapping[str, Gpu]) -> None:
        """Write the totals of these GPUs until cancelled."""
        await self._write(gpus, last=False)
        while True:
            await asyncio.sleep(WRITE_PERIOD_SECONDS)
            await self._write(gpus, last=False)

    async def stop(self, gpus: Mapping[str, Gpu]) -> None:
        """Write the last totals, and end the thread."""
        await self._write(gpus, last=True)
        self._worker.stop()

    async def _write(self, gpus: Mapping[str, Gpu], *, last: bool) -> None:
        meters = [(uuid, gpu.energy, _max_watts(gpu)) for uuid, gpu in gpus.items()]
        document = self._totals.document(meters, last=last)
        try:
            await self._worker.call(lambda: self._totals.write(document), WRITE_TIMEOUT_SECONDS)
        except (OSError, WorkerTimeout) as error:
            problem = str(error)
        else:
            problem = ""
        if problem and problem != self._problem:
            note(logger, logging.WARNING, "energy totals not written", reason=problem)
        self._problem = problem


def _max_watts(gpu: Gpu) -> float | None:
    bounds = None if gpu.identity is None else gpu.identity.bounds
    return None if bounds is None else bounds.max_milliwatts / 1000.0
