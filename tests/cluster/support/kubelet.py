"""A simulated node: scheduler and kubelet of the pods of training runs, on a real API server.

It binds pods, writes their status through the status subresource as a kubelet does, and ends them
as a `Trainer` says.  What a kubelet does to a pod that is being deleted, it does as well: SIGTERM,
the last status, and the removal of the object.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.cluster.support import pod_status
from tests.cluster.support.api import STRATEGIC_PATCH, Api, ApiFailure
from tests.cluster.support.endings import Deletion, Ending, Held, Trainer
from tests.cluster.support.pod_run import PodRun
from tests.cluster.support.synthetic_job import SyntheticJob
from zeus_operator.names import LABEL_JOB_UID

__all__ = ["Ending", "Held", "PodRun", "SimulatedNode", "SyntheticJob", "Trainer"]

RETRY_SECONDS = 0.1
WATCH_SECONDS = 300
QUIET_SECONDS = 330.0
_OVER = frozenset({"Succeeded", "Failed"})


def ended_by_sigterm(_run: PodRun) -> Ending | Held:
    """What a script does that knows nothing of SIGTERM."""
    return Ending(143, "Error")


@dataclass
class _Pod:
    """What the node knows of a pod; `lock` is held while its status is written."""

    run: PodRun
    is_bound: bool
    lock: threading.RLock = field(default_factory=threading.RLock)
    started: datetime | None = None
    is_over: bool = False
    is_being_deleted: bool = False
    at_deletion: Ending | None = None


class _Gone(Exception):  # noqa: N818
    """The pod is no longer there."""


class SimulatedNode:
    """Runs every pod that `selector` finds, until stopped.  A context manager.

    It survives restarts of the API server, and repeats each write until it is done.

    Args:
        trainer: how each pod ends; may be replaced while it runs.
        namespace: None: all of the cluster.
        stopped: how a pod ends that somebody deletes while it runs; one that is held takes its
            grace period.
        backdate_seconds: so much earlier than they do, containers say that they started; lets a
            result claim that much time.  They then seem older than their pods.
        threads: pods that are written at the same time.
    """

    def __init__(
        self,
        api: Api,
        trainer: Trainer,
        *,
        namespace: str | None = None,
        name: str = "simulated-node",
        selector: str = LABEL_JOB_UID,
        stopped: Trainer = ended_by_sigterm,
        backdate_seconds: float = 0.0,
        threads: int = 4,
    ) -> None:
        self.trainer = trainer
        self.name = name
        self._api = api
        self._path = "/api/v1/pods" if namespace is None else f"/api/v1/namespaces/{namespace}/pods"
        self._selector = selector
        self._stopped = stopped
        self._backdate = timedelta(seconds=backdate_seconds)
        self._pods: dict[str, _Pod] = {}
        self._stop = threading.Event()
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._watcher = threading.Thread(target=self._watch_for_ever, name=name, daemon=True)
        self.failures: list[BaseException] = []

    def start(self) -> SimulatedNode:
        """Begin."""
        self._watcher.start()
        return self

    def stop(self) -> None:
        """Let go of all pods as they are; a failure of the trainer's is raised now."""
        self._stop.set()
        self._workers.shutdown(cancel_futures=True)
        while self._watcher.is_alive():
            self._api.interrupt_watches()  # again, for one that has only just begun
            self._watcher.join(RETRY_SECONDS)
        if self.failures:
            raise AssertionError("the simulated node has failed") from self.failures[0]

    def __enter__(self) -> SimulatedNode:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.stop()
        else:
            with contextlib.suppress(AssertionError):  # the first failure says more
                self.stop()

    # The watch -----------------------------------------------------------------

    def _watch_for_ever(self) -> None:
        while not self._stop.is_set():
            try:
                self._list_and_watch()
            except ApiFailure:
                self._stop.wait(RETRY_SECONDS)
            except Exception as error:
                self.failures.append(error)
                self._stop.wait(RETRY_SECONDS)

    def _list_and_watch(self) -> None:
        query = {"labelSelector": self._selector}
        page = self._api.get(self._path, query)
        listed = page.get("items") or []
        for pod in listed:
            self._see(pod)
        for uid in set(self._pods) - {pod["metadata"]["uid"] for pod in listed}:
            self._pods.pop(uid)
        version = page["metadata"]["resourceVersion"]
        more = {**query, "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        for event in self._api.watch(self._path, more, QUIET_SECONDS):
            if self._stop.is_set() or event["type"] == "ERROR":  # too old: list again
                return
            if event["type"] == "DELETED":
                self._pods.pop(event["object"]["metadata"]["uid"], None)
            else:
                self._see(event["object"])

    def _see(self, manifest: Mapping[str, Any]) -> None:
        uid = manifest["metadata"]["uid"]
        pod = self._pods.get(uid)
        if pod is None:
            pod = _Pod(PodRun(manifest), bool(manifest["spec"].get("nodeName")))
            pod.is_over = (manifest.get("status") or {}).get("phase") in _OVER
            self._pods[uid] = pod
            if not pod.is_over and not manifest["metadata"].get("deletionTimestamp"):
                self._do(self._go_on, pod, self.trainer)
        if manifest["metadata"].get("deletionTimestamp") and not pod.is_being_deleted:
            pod.is_being_deleted = True
            self._do(self._end_deleted, pod, self._stopped)

    def _do(self, step: Callable[..., None], pod: _Pod, *arguments: Any) -> None:
        """Have a worker do `step`, one at a time for each pod."""

        def work() -> None:
            with pod.lock, contextlib.suppress(_Gone):
                step(pod, *arguments)

        def done(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                self.failures.append(error)

        with contextlib.suppress(RuntimeError):  # stopped meanwhile
            self._workers.submit(work).add_done_callback(done)

    # The life of a pod ---------------------------------------------------------

    def _go_on(self, pod: _Pod, trainer: Trainer) -> None:
        if pod.is_over or pod.is_being_deleted:
            return
        course = trainer(pod.run)
        if isinstance(course, Held):
            if course.trouble is None:
                self._run(pod)
            elif course.trouble.is_scheduled:
                self._bind(pod)
                self._write(pod, pod_status.waiting(pod.run, course.trouble, _now()))
            else:
                self._write(pod, pod_status.unscheduled(course.trouble, _now()))
            course.gate.when_open(lambda: self._do(self._go_on, pod, course.then))
            return
        if course.is_started:
            self._run(pod)
        else:
            self._bind(pod)
        if course.deletion is Deletion.GRACEFUL:
            pod.at_deletion = course
            if course.disruption is not None:
                self._write(pod, pod_status.disrupted(course.disruption, _now()))
            self._repeat(pod, lambda: self._api.delete(self._path_of(pod), **_only(pod)))
            return
        self._end(pod, course)
        if course.deletion is Deletion.FORCED:
            self._remove(pod)

    def _end_deleted(self, pod: _Pod, stopped: Trainer) -> None:
        if not pod.is_over:
            course = Ending(exit_code=None) if pod.started is None else pod.at_deletion
            course = course or stopped(pod.run)
            if isinstance(course, Held):
                then = course.then
                course.gate.when_open(lambda: self._do(self._end_deleted, pod, then))
                return
            self._end(pod, course)
        self._remove(pod)

    def _run(self, pod: _Pod) -> None:
        if pod.started is None:
            self._bind(pod)
            now = _now()
            pod.started = now - self._backdate
            self._write(pod, pod_status.running(pod.run, pod.started, now))

    def _end(self, pod: _Pod, ending: Ending) -> None:
        pod.is_over = True
        now = _now()
        self._write(pod, pod_status.ended(pod.run, ending, pod.started or now, now))

    def _bind(self, pod: _Pod) -> None:
        if pod.is_bound:
            return
        body = {
            "metadata": {"name": pod.run.name, "uid": pod.run.uid},
            "target": {"kind": "Node", "name": self.name},
        }
        # 409: bound already, by a write whose answer was lost.  A pod of another UID is found out
        # by the status that follows.
        self._repeat(pod, lambda: self._api.post(f"{self._path_of(pod)}/binding", body), done={409})
        pod.is_bound = True

    def _remove(self, pod: _Pod) -> None:
        options = {**_only(pod), "gracePeriodSeconds": 0}
        self._repeat(pod, lambda: self._api.delete(self._path_of(pod), **options))

    def _write(self, pod: _Pod, status: dict[str, Any]) -> None:
        body = {"metadata": {"uid": pod.run.uid}, "status": status}
        path = f"{self._path_of(pod)}/status"
        self._repeat(pod, lambda: self._api.patch(path, body, STRATEGIC_PATCH))

    def _repeat(self, pod: _Pod, request: Callable[[], object], done: Collection[int] = ()) -> None:
        """Do `request` until the API server has taken it."""
        while not self._stop.is_set():
            try:
                request()
                return
            except ApiFailure as failure:
                if failure.status in done:
                    return
                # 422: another pod has its name by now, and another UID.
                is_of_another = failure.status in (409, 422) and not self._is_there(pod)
                if failure.status == 404 or is_of_another:
                    raise _Gone from failure
                if failure.status not in (0, 409, 429) and failure.status < 500:
                    raise
            self._stop.wait(RETRY_SECONDS)
        raise _Gone

    def _is_there(self, pod: _Pod) -> bool:
        """Whether the pod of that name is still the one meant."""
        try:
            found = self._api.find(self._path_of(pod))
        except ApiFailure:
            return True  # nobody answers: not known to be gone
        return found is not None and found["metadata"]["uid"] == pod.run.uid

    def _path_of(self, pod: _Pod) -> str:
        return f"/api/v1/namespaces/{pod.run.namespace}/pods/{pod.run.name}"


def _only(pod: _Pod) -> dict[str, Any]:
    return {"preconditions": {"uid": pod.run.uid}}


def _now() -> datetime:
    return datetime.now(UTC)
