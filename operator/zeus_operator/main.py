"""The operator's process: `zeus-operator`.

The main thread's loop serves health and metrics, waits for the Lease, and watches over the rest:
kopf in a thread of its own, worker threads that reconcile, a thread that renews the Lease.
Whatever goes wrong for good ends the process: everything is in the store, so a restart is cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click
from kubernetes.client import Configuration
from kubernetes.config import ConfigException

from zeus_operator.agents.side import agents_of
from zeus_operator.alarms import Alarms
from zeus_operator.executors.checkpoints import ClusterCheckpointHook, no_cluster_checkpoint
from zeus_operator.executors.kubernetes import KubernetesExecutor
from zeus_operator.health import HealthServer, Ping, Vitals, WorkerState
from zeus_operator.history.projector import HistoryProjector
from zeus_operator.intake import Intake
from zeus_operator.kube import KubeClient, KubeError, load_configuration
from zeus_operator.leader import LeaderElector, LeadershipLost
from zeus_operator.lease import Candidate, KubeLease
from zeus_operator.logs import set_up_logging
from zeus_operator.metrics import Metrics
from zeus_operator.reconcile import Reconciler
from zeus_operator.resync import Lister, Resync, WatchStalled
from zeus_operator.settings import VARIABLES, OperatorSettings, SettingsError, load_settings
from zeus_operator.status_writer import StatusWriter
from zeus_operator.store.connection import Database, open_engine
from zeus_operator.store.fencing import FencedOut
from zeus_operator.store.migrate import NEWEST_REVISION
from zeus_operator.store.store import Store, StoreError, StoreUnavailable
from zeus_operator.watching import Watching
from zeus_operator.workers import Workers
from zeus_operator.workloads.served import ServedKinds
from zeus_operator.workqueue import WorkQueue
from zeus_operator.world import Key, World, resources_of

TICK_SECONDS = 0.25
_STORE_RETRY_SECONDS = 2.0
_STORE_ASKED_SECONDS = 10.0
_KINDS_ASKED_SECONDS = 10.0
# A reconcile that fails is repeated by the queue; its thread must be free for others meanwhile.
_STORE_PAUSES_SECONDS = (0.05, 0.2, 0.5)

_log = logging.getLogger("zeus_operator")


class OperatorFailed(Exception):  # noqa: N818
    """The process can't go on; the text says why.  A restart may heal it."""


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


class Operator:
    """One replica.

    Args:
        configuration: makes how to reach the API server, anew for each login.
        clock: gives the time, aware.
        checkpoint: called between two effects of a reconcile.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        configuration: Callable[[], Configuration],
        *,
        clock: Callable[[], datetime] = utc_now,
        checkpoint: ClusterCheckpointHook = no_cluster_checkpoint,
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._clock = clock
        self._checkpoint = checkpoint
        times = settings.lease_times
        lease_client = KubeClient(
            configuration(), pool_size=2, read_timeout_seconds=times.request_timeout_seconds
        )
        lease = KubeLease(lease_client, settings.lease_namespace, settings.lease_name)
        self._elector = LeaderElector(Candidate(lease, settings.identity, times), times)
        self._client = KubeClient(configuration(), pool_size=settings.workers + 4)
        engine = open_engine(settings.database_url, pool_size=settings.workers + 3)
        self._store = Store(engine, database=Database(engine, pauses_seconds=_STORE_PAUSES_SECONDS))
        self._world = World()
        self._queue: WorkQueue[Key] = WorkQueue()
        self._alarms: Alarms[Key] = Alarms()
        self._metrics = Metrics(settings.metrics_jobs)
        self._lister = Lister(self._client, settings.watch_namespaces)
        self._workers: Workers | None = None
        self._kinds = ServedKinds(settings.workloads)
        self._watching = Watching(
            self._world,
            self._client,
            self._lister,
            self._kinds,
            self._enqueue,
            configuration,
            settings.watch_namespaces,
        )
        self._first_list_done = False
        self._ping = Ping(self._ask_store)
        self.port = 0

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the port of health and metrics can't be had.
            LeadershipLost, FencedOut, OperatorFailed, WatchStalled: the process has to end.
        """
        self._wire_metrics()
        health = HealthServer(self._vitals(), self._metrics.registry, store=self._ping)
        self.port = await health.start(self._settings.http_host, self._settings.http_port)
        _log.info("health and metrics on port %d; waiting for the Lease", self.port)
        pings = asyncio.ensure_future(self._keep_asking_store())
        try:
            await self._elector.run(self._lead)
        finally:
            pings.cancel()
            await health.stop()
            self._store.close()

    async def _lead(self) -> None:
        """Work as the leader until cancelled."""
        store = await self._fenced_store()
        agents = agents_of(
            self._settings,
            self._client,
            self._metrics,
            self._world,
            lambda key: self._queue.add(key, low=True),
            self._elector.check,
            self._clock,
        )
        executor = KubernetesExecutor(
            self._client,
            self._world,
            agents.child_settings,
            self._clock,
            agents.result_of,
            self._checkpoint,
            self._kinds,
        )
        projector = HistoryProjector(
            store,
            self._client,
            self._clock,
            self._elector.check,
            lambda: self._queue.depth > self._settings.workers,
            most_kibibytes=self._settings.history_kibibytes,
        )
        reconciler = Reconciler(
            store,
            self._world,
            Intake(store, self._client, self._clock, self._checkpoint),
            executor,
            StatusWriter(
                store,
                self._client,
                self._metrics,
                self._clock,
                agents.shown,
                self._checkpoint,
                projector,
                self._settings.mode_limits,
                note=self._world.note_zeusjob,
            ),
            self._clock,
            self._checkpoint,
            self._settings.mode_limits,
        )
        resync = Resync(
            store,
            self._world,
            self._lister,
            lambda key: self._queue.add(key, low=True),
            reconciler.delete,
            absence_confirm=timedelta(seconds=self._settings.absence_confirm_seconds),
            retention=timedelta(days=self._settings.retention_days),
            clock=self._clock,
            watched=self._watching.watched,
        )
        self._workers = Workers(
            self._settings.workers,
            reconciler,
            self._queue,
            self._alarms,
            self._metrics,
            self._elector.check,
        )
        try:
            await self._watching.wait_for_definition()
            await asyncio.to_thread(agents.start)
            await asyncio.to_thread(self._watching.start)
            await self._wait_for_first_list()
            self._workers.start()
            projector.start()
            await self._oversee(self._workers, resync)
        finally:
            stops = (self._workers.stop, self._watching.stop, projector.stop)
            await asyncio.gather(*map(asyncio.to_thread, stops))
            await asyncio.to_thread(agents.stop)

    def _enqueue(self, key: Key, is_first_list: bool) -> None:
        # Ten thousand idle jobs of the first list wait behind whoever needs something now.
        self._queue.add(key, low=is_first_list)

    async def _fenced_store(self) -> Store:
        """Migrate the schema and take the next epoch; waits for a store that is away."""
        told = ""
        while True:
            try:
                return await asyncio.to_thread(self._take_epoch)
            except StoreUnavailable as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("waiting for the store: %s", error)
            await asyncio.sleep(_STORE_RETRY_SECONDS)

    def _take_epoch(self) -> Store:
        self._elector.check()
        if (revision := self._store.migrate()) != NEWEST_REVISION:
            known = NEWEST_REVISION
            _log.warning("the schema is %s, of a newer release; this one's is %s", revision, known)
        self._elector.check()  # it may have taken long
        return self._store.lead(
            self._settings.identity,
            self._clock(),
            statement_timeout_seconds=self._settings.statement_timeout_seconds,
            idle_timeout_seconds=self._settings.transaction_idle_timeout_seconds,
        )

    async def _wait_for_first_list(self) -> None:
        """Wait until the cache holds what is there: before, absence means nothing."""
        pause_seconds = TICK_SECONDS
        while not await asyncio.to_thread(self._watching.is_first_list_in):
            self._check_watches()
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, 5.0)
        self._first_list_done = True
        _log.info("%d ZeusJobs", len(self._world.zeusjobs()))

    async def _oversee(self, workers: Workers, resync: Resync) -> None:
        """Ring alarms, start resyncs, and end when a part has failed for good."""
        loop = asyncio.get_running_loop()
        next_resync = loop.time() + self._settings.resync_seconds
        next_look = loop.time() + _KINDS_ASKED_SECONDS
        running: asyncio.Future[None] | None = None
        while True:
            self._elector.check()
            if workers.fatal is not None:
                raise workers.fatal
            self._check_watches()
            if loop.time() >= next_look:
                await asyncio.to_thread(self._watching.take_up)
                next_look = loop.time() + _KINDS_ASKED_SECONDS
            for key in self._alarms.due(self._clock()):
                self._queue.add(key)
            if running is not None and running.done():
                running.result()
                running = None
            if running is None and loop.time() >= next_resync:
                next_resync = loop.time() + self._settings.resync_seconds
                running = asyncio.ensure_future(asyncio.to_thread(self._resync, resync))
            await asyncio.sleep(TICK_SECONDS)

    def _check_watches(self) -> None:
        if failure := self._watching.failure:
            raise OperatorFailed(f"the watches have ended: {failure}")

    def _resync(self, resync: Resync) -> None:
        served = self._settings.watch_namespaces
        try:
            resync.run(lambda namespace: not served or namespace in served)
        except FencedOut:
            raise
        except (KubeError, StoreError) as error:
            _log.warning("resync: %s; the next one is in due time", error)

    async def _keep_asking_store(self) -> None:
        """Know whether the store answers also where nobody asks for readiness: for the metric."""
        while True:
            await self._ping.refresh()
            await asyncio.sleep(_STORE_ASKED_SECONDS)

    def _ask_store(self) -> str:
        try:
            self._store.ping()
        except StoreError as error:
            return str(error)
        return ""

    def _vitals(self) -> Vitals:
        return Vitals(
            workers=self._worker_states,
            is_leader=lambda: self._elector.is_leader,
            first_list_done=lambda: self._first_list_done,
            watch_ages_seconds=lambda: {
                resource.value: self._world.proof_age_seconds(resource)
                for resource in self._watching.relied_on()
            },
            lease_age_seconds=lambda: self._elector.candidate.contact_age_seconds,
            store_problem=self._ping.problem,
        )

    def _worker_states(self) -> list[WorkerState]:
        started = self._workers is not None and self._first_list_done
        return self._workers.states() if self._workers is not None and started else []

    def _wire_metrics(self) -> None:
        self._metrics.read_queue(
            lambda: self._queue.depth,
            lambda: self._queue.oldest_age_seconds,
            lambda: self._queue.delayed,
        )
        for resource in resources_of(self._kinds.allowed):
            age = functools.partial(self._world.proof_age_seconds, resource)
            self._metrics.read_watch(resource.value, age)
        self._metrics.read_leader(lambda: self._elector.is_leader)
        self._metrics.read_store(lambda: not self._ping.problem())


async def serve(operator: Operator) -> None:
    """Run `operator` until SIGTERM or SIGINT; then the Lease is released."""
    work = asyncio.ensure_future(operator.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def run(
    settings: OperatorSettings, kubeconfig: str | None, operator: Operator | None = None
) -> int:
    """Run a replica and return the exit code: 0 after a signal, 1 if it must be started again."""
    try:
        replica = operator or Operator(settings, lambda: load_configuration(kubeconfig))
        # Not `asyncio.run`: it would wait for threads that hang in a request.
        asyncio.new_event_loop().run_until_complete(serve(replica))
    except (LeadershipLost, FencedOut, OperatorFailed, WatchStalled, StoreError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--kubeconfig", help="How to reach the API server; not needed inside a pod.")
def main(kubeconfig: str | None, **flags: str | None) -> None:
    """Run the operator: it reconciles ZeusJobs until SIGTERM.

    Each option may also be given as an environment variable, named at its end.
    """
    try:
        settings = load_settings(os.environ, flags)
        set_up_logging(settings.log_format)
        load_configuration(kubeconfig)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    except ConfigException as error:
        raise click.ClickException(
            f"no way to the API server: {error}; give --kubeconfig"
        ) from None
    code = run(settings, kubeconfig)
    # Threads that hang in a request must not keep a process that has given up its Lease alive.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


for _variable in reversed(VARIABLES):
    main = click.option(
        _option(_variable.field), _variable.field, help=f"{_variable.meaning} [{_variable.name}]"
    )(main)


if __name__ == "__main__":
    main()
