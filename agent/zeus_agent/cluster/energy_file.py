"""The totals of `energy_by_pod` on disk, so that they go on over restarts of the agent."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from zeus_agent.cluster.energy_by_pod import EnergyByPod, PodLabels, Totals
from zeus_agent.journal import write_file
from zeus_agent.logs import note
from zeus_agent.worker import Worker, WorkerTimeout

logger = logging.getLogger("zeus_agent.cluster.energy_file")

WRITE_PERIOD_SECONDS = 10.0
WRITE_TIMEOUT_SECONDS = 2.0
_FORMAT = 1


class EnergyFile:
    """One file; written in a thread, and not on the path of anybody's request.

    Args:
        path: of the file.
        sleep: waits.
    """

    def __init__(
        self, path: Path, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._path = path
        self._sleep = sleep
        self._is_failing = False
        self._worker: Worker | None = None

    def load(self) -> Totals:
        """Return what an earlier agent has stored; none if that can't be read, which is logged."""
        try:
            return _parse(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return Totals()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            note(
                logger,
                logging.WARNING,
                "energy of pods is counted from zero: the file of earlier totals can't be read",
                path=self._path,
                reason=str(error),
            )
            return Totals()

    async def run(self, energy: EnergyByPod) -> None:
        """Store and show the totals every `WRITE_PERIOD_SECONDS`, until cancelled."""
        while True:
            await self._sleep(WRITE_PERIOD_SECONDS)
            await self.store(energy)

    async def store(self, energy: EnergyByPod) -> None:
        """Store the totals of now, then show them; call it once more at the end.

        Where the disk takes nothing they are shown all the same: a metric that stands still for
        days would be worse than one that falls if the agent then restarts as well.
        """
        totals = energy.totals()
        try:
            await self._write(_document(totals))
        except (OSError, WorkerTimeout) as error:
            if not self._is_failing:
                note(
                    logger,
                    logging.WARNING,
                    "energy of pods can't be stored; a restart would count from older totals",
                    path=self._path,
                    reason=str(error),
                )
            self._is_failing = True
        else:
            self._is_failing = False
        energy.show(totals)

    def close(self) -> None:
        """End the thread."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    async def _write(self, document: str) -> None:
        # Not asyncio's own threads: the end of the program would wait for a disk that hangs.
        if self._worker is None:
            self._worker = Worker("energy of pods")
        data = document.encode()
        await self._worker.call(
            lambda: write_file(self._path, data, durable=False), WRITE_TIMEOUT_SECONDS
        )


def _document(totals: Totals) -> str:
    return json.dumps(
        {
            "format": _FORMAT,
            "pods": [[*labels, joules] for labels, joules in totals.pods.items()],
            "namespaces": dict(totals.namespaces),
            "unattributed": dict(totals.unattributed),
        }
    )


def _parse(raw: Any) -> Totals:
    if raw["format"] != _FORMAT:
        raise ValueError(f"format {raw['format']} is not known here")
    return Totals(
        {
            PodLabels(str(namespace), str(pod), str(zeusjob)): _joules(joules)
            for namespace, pod, zeusjob, joules in raw["pods"]
        },
        {str(name): _joules(joules) for name, joules in raw["namespaces"].items()},
        {str(reason): _joules(joules) for reason, joules in raw["unattributed"].items()},
    )


def _joules(value: Any) -> float:
    joules = float(value)
    if not math.isfinite(joules) or joules < 0.0:
        raise ValueError(f"an energy of {joules} J")
    return joules
