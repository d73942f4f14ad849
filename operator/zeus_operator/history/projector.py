"""Projects histories: at once where nobody waits, else by a thread that lets others pass.

It holds no run up.  What can't be written is said in an Event and tried again, later and later, in
a queue of its own; the reconcile that asked for it has succeeded.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from zeus_operator.history import config_map, fitting
from zeus_operator.history.fitting import MAX_KIBIBYTES
from zeus_operator.history.keeper import FormerThere, HistoryKeeper, NotOurs
from zeus_operator.kube import (
    AlreadyExists,
    Conflict,
    KubeClient,
    KubeError,
    KubeUnavailable,
    NotFound,
    path_of,
)
from zeus_operator.leader import LeadershipLost
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.recent import Recent
from zeus_operator.records import JobRecord, RecurrenceRecord
from zeus_operator.report.findings import findings_of
from zeus_operator.status.events import EventNote, EventType, event_manifest
from zeus_operator.store.store import Store, StoreError
from zeus_operator.workqueue import Backoff, WorkQueue
from zeus_operator.world import Key

BACKOFF = Backoff(first_seconds=1.0, cap_seconds=600.0)
LET_PASS_SECONDS = 2.0
"""So long one history waits for runs that wait."""
MAX_AT_ONCE = 500
"""Recurrences of a history that a reconcile writes itself; more take too long (about 0.1 s)."""
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 10.0
_AFTER_FAULT_SECONDS = 1.0
_EVENTS_REMEMBERED = 20_000
_EVENT_KEPT_SECONDS = 3600
"""After that Kubernetes drops Events, unless it is told otherwise."""
_COLLISION = "HistoryCollision"
_REFUSED = "HistoryRefused"

_PASSES = (KubeUnavailable, Conflict, NotFound)
"""Nothing for a user to mend; what is not found is the namespace, which goes with its ZeusJobs."""

_log = logging.getLogger(__name__)


class _Gone(Exception):  # noqa: N818 - a state of the store
    """The job was deleted meanwhile."""


@dataclass(frozen=True)
class _Wish:
    """A history that is to be written.  Small: there may be ten thousand of them."""

    key: Key
    uid: str
    made_of: str


class HistoryProjector:
    """Brings the ConfigMaps of histories up to date.  Thread-safe.

    Args:
        clock: gives the time of Events, aware.
        guard: raises if this process may write no more.
        is_busy: whether runs wait for somebody to see to them.
        queue: of the uids of ZeusJobs whose history waits.
        most_kibibytes: of one history; 0: none is written, and those that are there are emptied.
    """

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        clock: Callable[[], datetime],
        guard: Callable[[], None] = lambda: None,
        is_busy: Callable[[], bool] = lambda: False,
        queue: WorkQueue[str] | None = None,
        most_kibibytes: int = MAX_KIBIBYTES,
    ) -> None:
        self._store = store
        self._client = client
        self._clock = clock
        self._guard = guard
        self._is_busy = is_busy
        self._queue = queue or WorkQueue(backoff=BACKOFF)
        self.most_kibibytes = most_kibibytes
        self._keeper = HistoryKeeper(client, guard)
        self._lock = threading.Lock()
        self._wishes: dict[str, _Wish] = {}  # by uid
        # The hour in which it was said last, by what is wrong with which ZeusJob.
        self._said: Recent[int] = Recent(_EVENTS_REMEMBERED)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="histories", daemon=True)

    def start(self) -> None:
        """Begin to see to what waits."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for that, but not for ever."""
        self._ended.set()
        self._queue.shut_down()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    def project(
        self,
        job: JobRecord,
        mark: str,
        recurrences: tuple[RecurrenceRecord, ...] | None,
        *,
        may_be_absent: bool = False,
    ) -> None:
        """See to the history of a job, now or soon.

        Args:
            mark: names what it is made of: the same mark, the same history.
            recurrences: the whole history; None: it was not read.
            may_be_absent: there is nothing to show yet and never was, so none has to be made.
        """
        made_of = self._made_of(mark)
        if may_be_absent or self._keeper.is_kept(job.uid, made_of):
            return
        wish = _Wish(Key(job.namespace, job.name), job.uid, made_of)
        with self._lock:
            waits = job.uid in self._wishes
            self._wishes[job.uid] = wish
        if waits:
            return  # with what is to be written then
        if recurrences is None or len(recurrences) > MAX_AT_ONCE or self._is_busy():
            self._queue.add(job.uid)
            return
        try:
            self._see_to(wish, lambda: self._made(job, recurrences))
        except LeadershipLost:
            raise
        except Exception as error:
            self._put_off(wish, error)

    def _made_of(self, mark: str) -> str:
        """Return the digest of what a history is made of: its size counts, for it bounds it."""
        if not self.most_kibibytes:
            return config_map.EMPTIED
        # Of a release without the setting nothing is made anew for it.
        bound = "" if self.most_kibibytes == MAX_KIBIBYTES else f"/{self.most_kibibytes}"
        return hashlib.sha256(f"{mark}{bound}".encode()).hexdigest()[:32]

    def forget(self, uid: str) -> None:
        """Drop what is known of a ZeusJob that is gone."""
        with self._lock:
            self._wishes.pop(uid, None)
        self._keeper.forget(uid)
        self._queue.forget(uid)
        self._healed(uid)

    def take_next(self, timeout_seconds: float) -> bool:
        """See to the next history that waits and is due; returns whether there was one.

        Raises:
            LeadershipLost: this process may act no more.
        """
        uid = self._queue.get(timeout_seconds)
        if uid is None:
            return False
        with self._lock:
            wish = self._wishes.get(uid)
        if wish is None:  # it is gone
            self._queue.forget(uid)
            self._queue.done(uid)
            return True
        try:
            self._see_to(wish, lambda: self._read(wish))
            self._queue.forget(uid)
        except LeadershipLost:
            raise
        except Exception as error:  # whatever it is: another try may succeed, and nobody waits
            self._put_off(wish, error)
        finally:
            self._queue.done(uid)
        return True

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._let_pass()
                self.take_next(1.0)
            except LeadershipLost as error:
                _log.info("no more histories are written: %s", error)
                return
            except Exception:  # a thread that has died writes none any more, and nobody sees it
                _log.exception("a history can't be seen to; others are")
                self._ended.wait(_AFTER_FAULT_SECONDS)

    def _let_pass(self) -> None:
        waited = 0.0
        while self._is_busy() and waited < LET_PASS_SECONDS and not self._ended.is_set():
            self._ended.wait(_LOOK_SECONDS)
            waited += _LOOK_SECONDS

    def _see_to(self, wish: _Wish, contents: Callable[[], bytes]) -> None:
        self._guard()
        try:
            if self.most_kibibytes:
                self._keeper.keep(wish.key, wish.uid, wish.made_of, contents)
            else:
                self._keeper.empty(wish.key, wish.uid)
        except _Gone:
            self.forget(wish.uid)
            return
        self._healed(wish.uid)
        with self._lock:
            if self._wishes.get(wish.uid) == wish:
                del self._wishes[wish.uid]
                return
            is_gone = wish.uid not in self._wishes
        if is_gone:
            self._keeper.forget(wish.uid)
        else:
            self._queue.add(wish.uid)  # it has changed meanwhile

    def _read(self, wish: _Wish) -> bytes:
        job = self._store.job_by_uid(wish.uid)
        if job is None:
            raise _Gone
        return self._made(job, self._store.history(job.id))

    def _made(self, job: JobRecord, recurrences: Sequence[RecurrenceRecord]) -> bytes:
        findings = findings_of(recurrences, JobPlanSpec.from_document(job.spec).eta)
        learned = self._store.stored_observations(job.id)
        most_bytes = self.most_kibibytes * 1024
        return fitting.project(job, findings, recurrences, learned, most_bytes)

    # What could not be written ---------------------------------------------------

    def _put_off(self, wish: _Wish, error: Exception) -> None:
        """Try it again later, and say why."""
        is_first = self._queue.failures(wish.uid) == 0
        self._queue.retry(wish.uid)  # first: whatever becomes of the words
        self._tell(wish, error, is_first=is_first)

    def _tell(self, wish: _Wish, error: Exception, *, is_first: bool) -> None:
        """Say what is wrong; users hear of it if it does not heal by itself."""
        words = f"{wish.key}: its history can't be written: {error}"
        if not isinstance(error, (KubeError, StoreError, NotOurs, FormerThere)):
            # Something of ours is wrong, or in the history.
            _log.error("%s", words, exc_info=error)
            return
        _log.log(logging.WARNING if is_first else logging.DEBUG, "%s", words)
        name = config_map.name_of(wish.key.name)
        if isinstance(error, NotOurs):
            text = (
                f"the ConfigMap {name} is there and is not this ZeusJob's, so its history can't be "
                "shown; delete or rename that one. Runs go on."
            )
            self._say(wish, _COLLISION, text)
        elif isinstance(error, KubeError) and not isinstance(error, _PASSES):
            text = f"the ConfigMap {name} can't be written: {error.message}. Runs go on."
            self._say(wish, _REFUSED, text)

    def _say(self, wish: _Wish, reason: str, text: str) -> None:
        """Post an Event, once an hour until it heals.

        Its name says with which history what is wrong and in which hour, not in which words: those
        change from try to try.
        """
        now = self._clock()
        hour = int(now.timestamp()) // _EVENT_KEPT_SECONDS
        said = _said_key(wish.uid, reason)
        if self._said.get(said) == hour:
            return
        subject = f"{wish.uid}/{reason}/{wish.made_of}/{hour}"
        name = f"{wish.key.name}.{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
        note = EventNote(name, EventType.WARNING, reason, text, now)
        namespace = wish.key.namespace
        manifest = event_manifest(note, namespace, wish.key.name, wish.uid)
        try:
            self._client.create(path_of("v1", "events", namespace), manifest)
        except AlreadyExists:
            pass  # by the process before
        except KubeError as error:
            _log.warning("%s: an Event can't be posted: %s", wish.key, error.message)
            return
        self._said.put(said, hour)

    def _healed(self, uid: str) -> None:
        """Forget what was said of a ZeusJob: if it goes wrong again, that is news."""
        for reason in (_COLLISION, _REFUSED):
            self._said.drop(_said_key(uid, reason))


def _said_key(uid: str, reason: str) -> str:
    return f"{uid}/{reason}"
