"""The last report of each pod, on disk for a week: the second way home for a run's result.

A pod's termination message can be lost with the pod; what it reported last is still here.  Only
the operator reads it.

Each pod has one place.  The newest report takes it, by attempt and sequence, whatever the disk
does meanwhile and however many sessions the pod has.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from zeus_agent.callers import PodCaller
from zeus_agent.journal import write_file
from zeus_agent.leases import Refused
from zeus_agent.logs import note
from zeus_agent.rate import TokenBucket
from zeus_agent.worker import Worker, WorkerTimeout
from zeus_runtime.protocol import ErrorCode, PodReport, Result, decode_result, encode_result

logger = logging.getLogger("zeus_agent.reports")

KEEP_SECONDS = 7 * 24 * 3600.0
MAX_REPORTS = 1024
MAX_RESULT_BYTES = 12 * 1024
"""A longer one loses detail, as in a termination message."""
MAX_LISTED = 256
MAX_LISTED_BYTES = 1 << 20
MAX_UNSAVED = 64
SYNCS_PER_MINUTE = 6.0
SYNCS_BURST = 6
"""Final reports of one pod for which the disk is made to finish; it has one, and tries again."""
DISK_TIMEOUT_SECONDS = 2.0

_POD_UID = re.compile(r"[A-Za-z0-9-]{1,64}")

Write = Callable[[Path, bytes, bool], None]
"""Replaces a file; True: so that it survives a crash of the machine."""


@dataclass(eq=False)
class _Place:
    """The report of one pod.

    Args:
        order: attempt and sequence; a lower one is older.
        since_seconds: when it came, by the monotonic clock.
        unsaved: the report as JSON while it is not known to be on disk.
        is_final: the run has ended with it.
    """

    order: tuple[int, int]
    since_seconds: float
    unsaved: bytes | None = None
    is_final: bool = False


class Reports:
    """Keeps reports.

    How old one is, is measured by the monotonic clock: whoever sets the node's date loses none.

    Args:
        folder: of the files; made if it is not there.
        wall_clock: seconds since 1970.
        clock: monotonic seconds.
        write: of a file.
    """

    def __init__(
        self,
        folder: Path,
        wall_clock: Callable[[], float] = time.time,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Write | None = None,
    ) -> None:
        self._folder = folder
        self._wall_clock = wall_clock
        self._clock = clock
        self._write = write or _write
        self._places: dict[str, _Place] = {}  # by pod UID; the oldest first
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._syncs: dict[str, TokenBucket] = {}
        self._loading: asyncio.Task[None] | None = None
        self._worker = Worker("reports")
        self._is_failing = False

    def __len__(self) -> int:
        return len(self._places)

    async def start(self) -> None:
        """Begin to find what is there; nobody waits for a disk that hangs.

        A folder that can't be read leaves the agent without the reports in it.
        """
        now, wall = self._clock(), self._wall_clock()
        self._loading = asyncio.get_running_loop().create_task(self._load(now, wall))

    def stop(self) -> None:
        """End the thread."""
        self._worker.stop()

    async def keep(self, pod: PodCaller, result: Result) -> None:
        """Keep the newest report of a pod in place of the one before.

        A disk that fails is logged; the report is then kept in memory, and saved when it works.

        Raises:
            Refused: a newer one is known.
        """
        await self._loaded(DISK_TIMEOUT_SECONDS)
        order = (result.attempt, result.sequence)
        known = self._places.get(pod.pod_uid)
        if known is not None and order < known.order:
            raise Refused(
                ErrorCode.STALE_SEQUENCE,
                f"report {order[1]} of attempt {order[0]} is older than report {known.order[1]} of "
                f"attempt {known.order[0]}, which this pod has already sent",
                newest=known.order[1],
            )
        report = PodReport(
            pod.pod_uid, pod.namespace, pod.pod, self._wall_clock(), shortened(result)
        )
        data = json.dumps(asdict(report), allow_nan=False, separators=(",", ":")).encode()
        self._places.pop(pod.pod_uid, None)
        place = _Place(order, self._clock(), data, result.outcome is not None)
        self._places[pod.pod_uid] = place
        await self._written(pod.pod_uid)
        if place.unsaved is not None:
            self._bound_memory()
        if len(self._places) > MAX_REPORTS:
            await self._forget(list(self._places)[:-MAX_REPORTS])

    async def of_pod(self, pod_uid: str) -> bytes | None:
        """Return a `PodReport` as JSON, or None if there is none."""
        await self._loaded()
        place = self._places.get(pod_uid)
        if place is None:
            return None
        return place.unsaved if place.unsaved is not None else await self._read(pod_uid)

    async def newest(self) -> bytes:
        """Return the newest reports, the newest first, as a JSON list of `PodReport`."""
        await self._loaded()
        reports: list[bytes] = []
        room = MAX_LISTED_BYTES
        for pod_uid in reversed(list(self._places)[-MAX_LISTED:]):
            report = await self.of_pod(pod_uid)
            if report is None:
                continue
            room -= len(report) + 1
            if room < 0:
                break
            reports.append(report)
        return b"[" + b",".join(reports) + b"]"

    async def tidy(self) -> None:
        """Remove what is older than a week; try again to save what was not."""
        await self._loaded()
        now = self._clock()
        places = self._places.items()
        await self._forget(
            [uid for uid, place in places if now - place.since_seconds > KEEP_SECONDS]
        )
        for pod_uid in [uid for uid, place in places if place.unsaved is not None]:
            await self._written(pod_uid)
            if self._is_failing:
                return

    # ---- places ---------------------------------------------------------------

    async def _written(self, pod_uid: str) -> None:
        """Return when the pod's newest report is saved, or could not be.

        There is one write at a time, and the next is that of the newest, however many came.
        """
        writer = self._writers.get(pod_uid)
        if writer is None:
            writer = asyncio.get_running_loop().create_task(self._write_newest(pod_uid))
            self._writers[pod_uid] = writer
        await asyncio.shield(writer)  # a caller that hangs up ends no write

    async def _write_newest(self, pod_uid: str) -> None:
        try:
            while (place := self._places.get(pod_uid)) is not None:
                data = place.unsaved
                if data is None or not await self._save(pod_uid, data, is_final=place.is_final):
                    return
                place.unsaved = None
        finally:
            del self._writers[pod_uid]

    def _bound_memory(self) -> None:
        """Let the oldest of those go that the disk does not take."""
        unsaved = [place for place in self._places.values() if place.unsaved is not None]
        for place in unsaved[:-MAX_UNSAVED]:
            place.unsaved = None

    def _may_sync(self, pod_uid: str) -> bool:
        """Whether the disk is made to finish once more for this pod."""
        now = self._clock()
        bucket = self._syncs.get(pod_uid)
        if bucket is None:
            bucket = self._syncs[pod_uid] = TokenBucket(SYNCS_PER_MINUTE, SYNCS_BURST, now)
        return bucket.take(now) == 0.0

    # ---- disk -----------------------------------------------------------------

    async def _loaded(self, timeout_seconds: float | None = None) -> None:
        if self._loading is not None and not self._loading.done():
            await asyncio.wait([self._loading], timeout=timeout_seconds)

    async def _load(self, now: float, wall: float) -> None:
        try:
            found = await self._worker.call(self._read_all, 10 * DISK_TIMEOUT_SECONDS)
        except (OSError, WorkerTimeout) as error:
            self._failed(error)
            return
        came_meanwhile, self._places = self._places, {}
        for pod_uid, (received_at, order) in sorted(found.items(), key=lambda item: item[1]):
            # A clock that was ahead then must not keep a report for longer than a week from now.
            self._places[pod_uid] = _Place(order, now - max(0.0, wall - received_at))
        for pod_uid, place in came_meanwhile.items():
            self._places.pop(pod_uid, None)
            self._places[pod_uid] = place

    async def _save(self, pod_uid: str, data: bytes, *, is_final: bool) -> bool:
        write, path = self._write, self._path(pod_uid)
        durable = is_final and self._may_sync(pod_uid)
        try:
            await self._worker.call(lambda: write(path, data, durable), DISK_TIMEOUT_SECONDS)
        except (OSError, WorkerTimeout) as error:
            self._failed(error)
            return False
        if self._is_failing:
            self._is_failing = False
            note(logger, logging.INFO, "reports are saved again")
        return True

    async def _read(self, pod_uid: str) -> bytes | None:
        path = self._path(pod_uid)
        try:
            return await self._worker.call(path.read_bytes, DISK_TIMEOUT_SECONDS)
        except FileNotFoundError:
            return None
        except (OSError, WorkerTimeout) as error:
            self._failed(error)
            return None

    async def _forget(self, pod_uids: list[str]) -> None:
        for pod_uid in pod_uids:
            self._places.pop(pod_uid, None)
            self._syncs.pop(pod_uid, None)
        for pod_uid in pod_uids:
            if pod_uid not in self._places:  # the pod has reported again meanwhile
                unlink = functools.partial(self._path(pod_uid).unlink, missing_ok=True)
                with contextlib.suppress(OSError, WorkerTimeout):  # found at the next start
                    await self._worker.call(unlink, DISK_TIMEOUT_SECONDS)

    def _path(self, pod_uid: str) -> Path:
        if not _POD_UID.fullmatch(pod_uid):
            raise ValueError(f"{pod_uid!r} is no pod's UID")
        return self._folder / f"{pod_uid}.json"

    def _read_all(self) -> dict[str, tuple[float, tuple[int, int]]]:
        """Return when each report came, and its order; not what it says, which may be much."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = {}
        for path in self._folder.iterdir():
            if path.suffix != ".json":
                path.unlink(missing_ok=True)  # a write that never became valid
                continue
            try:
                report = PodReport.from_body(json.loads(path.read_bytes()))
                order = (int(report.result.attempt), int(report.result.sequence))
                found[path.stem] = (float(report.received_at), order)
            except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
                note(logger, logging.WARNING, "report unreadable", file=path, reason=str(error))
                with contextlib.suppress(OSError):
                    path.unlink()
        return found

    def _failed(self, error: Exception) -> None:
        if not self._is_failing:
            note(logger, logging.ERROR, "a report is not saved or read", reason=str(error))
        self._is_failing = True


def shortened(result: Result) -> Result:
    """Return the result, without detail where it is longer than `MAX_RESULT_BYTES`.

    First goes the note, then the power profile, then the sweep, then older milestones.
    """
    if len(json.dumps(asdict(result), separators=(",", ":"))) <= MAX_RESULT_BYTES:
        return result
    return decode_result(encode_result(result, MAX_RESULT_BYTES)) or result


def _write(path: Path, data: bytes, durable: bool) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path, data, durable=durable)
