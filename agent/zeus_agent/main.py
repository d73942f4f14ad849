"""`zeus-agent serve`: start, run, stop."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zeus_agent import logs, options, readiness
from zeus_agent.api import Api
from zeus_agent.authenticators import Authenticator, UnixPeers
from zeus_agent.broker import Broker
from zeus_agent.connections import Connections, Limits
from zeus_agent.fleet import DriverBroken
from zeus_agent.journal import Journal, JournalError, read_boot_id
from zeus_agent.listeners import (
    Listener,
    SocketError,
    address_of,
    allow_many_connections,
    listen_tcp,
    listen_unix,
    remove_unix,
    require_free,
    take_little_memory_for_tls,
)
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics, agent_version
from zeus_agent.operations import HEALTH, OPERATIONS, Operation
from zeus_agent.policy_file import PolicyError, PolicyFile
from zeus_agent.readiness import Readiness
from zeus_agent.server import Server
from zeus_agent.tls import Certificates, show_expiry

if TYPE_CHECKING:  # imported only where it is asked for: it takes memory
    from zeus_agent.cluster_side import ClusterSide

logger = logging.getLogger("zeus_agent")

EXIT_USAGE = 2  # wrong arguments, or another agent is running
EXIT_DRIVER = 3  # the driver is broken beyond what initializing again cures
EXIT_NOT_RESTORED = 4  # a limit could not be restored; it is saved for the next start

STOP_TIMEOUT_SECONDS = 5.0
ANSWER_TIMEOUT_SECONDS = 1.0
PROBE_CONNECTIONS = 64


class UsageError(Exception):
    """The options can't be served; the text says why."""


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    given = options.parse(argv)
    logs.configure(given.log_format)
    room = allow_many_connections()
    try:
        return asyncio.run(serve(given, room))
    except (JournalError, SocketError, PolicyError, UsageError) as error:
        print(f"zeus-agent: {error}", file=sys.stderr)
        return EXIT_USAGE


async def serve(given: argparse.Namespace, room: int) -> int:
    """Serve until a signal, idleness, or a fault; return the exit code.

    Args:
        given: the options.
        room: how many connections the system lets this process have.

    Raises:
        JournalError, SocketError: another agent is running, or a path can't be used.
        PolicyError: the policy can't be read.
        UsageError: the API server can't be found.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    policy = None if given.policy is None else PolicyFile(given.policy)
    journal = Journal(given.state_dir, read_boot_id())
    try:
        agent = Agent(given, journal, policy, room)
        try:
            await agent.start()
            # What is there now stays: to look through it again and again would hold up limits for
            # as long as twenty of them take.
            gc.collect()
            gc.freeze()
            exit_code = await _until_end(agent.broker, stop, given.idle_exit_seconds)
        finally:
            restored = await agent.stop()
        note(logger, logging.INFO, "stopped", limits_restored=restored)
        return exit_code if restored or exit_code else EXIT_NOT_RESTORED
    finally:
        journal.close()


class Agent:
    """All parts, as the options ask for them.

    Args:
        given: the options.
        journal: the state folder, locked.
        policy: the administrator's rules; None: there are none.
        room: how many connections the system lets this process have.

    Raises:
        SocketError: another agent is listening at the same path.
        UsageError: the API server can't be found.
    """

    def __init__(
        self, given: argparse.Namespace, journal: Journal, policy: PolicyFile | None, room: int
    ) -> None:
        self._given = given
        self._limits = Limits(total=min(Limits.total, room))
        if given.socket is not None:
            require_free(given.socket)
        self._metrics = Metrics()
        self.broker = Broker(
            journal,
            self._metrics,
            policy=policy,
            poll_seconds=given.poll_seconds,
            nvml_timeout_seconds=given.nvml_timeout_seconds,
            node=given.node_name,
        )
        self._cluster = self._cluster_side()
        self._certificates: Certificates | None = None
        if given.listen is not None:
            self._certificates = Certificates(given.tls_cert, given.tls_key)
            show_expiry(self._certificates, self._metrics.registry)
        self._api = Api(
            self.broker,
            self._metrics,
            Readiness(self._checks()),
            owners=None if self._cluster is None else self._cluster.boards,
            reports=None if self._cluster is None else self._cluster.reports,
        )
        self._connections: list[Connections] = []
        self._listeners: list[Listener] = []
        self._socket_inode = 0
        self._is_started = False

    async def start(self) -> None:
        """Restore what an earlier agent left, then serve.

        Raises:
            SocketError: an address can't be listened at.
        """
        given, cluster = self._given, self._cluster
        # Addresses first: what can't be served should fail before any GPU is touched.  Probes are
        # answered at once; callers wait in the backlog until the GPUs are known.
        if given.metrics_listen is not None:
            probes = listen_tcp(given.metrics_listen)
            note(logger, logging.INFO, "answering probes", address=address_of(probes))
            self._serve(probes, HEALTH, None)
        tcp = None if given.listen is None else listen_tcp(given.listen)
        if tcp is not None:
            take_little_memory_for_tls()
        self._is_started = True
        await self.broker.start()
        if cluster is not None:
            await cluster.start()
        if given.socket is not None:
            listening = listen_unix(given.socket, shared=bool(given.allow_uid))
            self._socket_inode = given.socket.lstat().st_ino
            self._serve(listening, OPERATIONS, UnixPeers(frozenset(given.allow_uid)))
        if tcp is not None and cluster is not None and self._certificates is not None:
            self._certificates.refresh()
            self.broker.keeper.start_task(self._certificates.refresh_forever())
            self._serve(tcp, OPERATIONS, cluster.authenticator)
        note(
            logger,
            logging.INFO,
            "serving",
            socket=given.socket,
            listen=None if tcp is None else address_of(tcp),
            version=agent_version(),
        )

    async def stop(self) -> bool:
        """Restore and stop, however far `start` has come; return whether every limit is back."""
        # Restoring begins while connections end; `Broker.stop` ends what these still open.
        self.broker.end_all_sessions("the agent stops")
        await _whatever_happens(self._stop_serving())
        restored = not self._is_started or await self.broker.stop(STOP_TIMEOUT_SECONDS)
        if self._cluster is not None:
            await _whatever_happens(self._cluster.stop())
        return restored

    # ---- inside ---------------------------------------------------------------

    async def _stop_serving(self) -> None:
        if self._socket_inode:
            remove_unix(self._given.socket, self._socket_inode)
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        await asyncio.gather(*(each.close(ANSWER_TIMEOUT_SECONDS) for each in self._connections))

    def _serve(
        self,
        listening: socket.socket,
        operations: tuple[Operation, ...],
        authenticator: Authenticator | None,
    ) -> None:
        is_tcp_for_pods = authenticator is not None and not authenticator.is_local
        server = Server(self._api, operations, authenticator, self._metrics)
        if self._cluster is not None:
            server.on_pod_refused = self._cluster.events.pod_refused
        limits = self._limits
        if authenticator is None:
            limits = replace(limits, total=PROBE_CONNECTIONS, strangers=PROBE_CONNECTIONS)
        elif authenticator.is_local:
            limits = replace(limits, per_group=limits.total)  # a user is not a pod
        connections = Connections(server, time.monotonic, limits)
        listener = Listener(listening, connections, self._certificates if is_tcp_for_pods else None)
        self._connections.append(connections)
        self._listeners.append(listener)
        for work in (listener.serve(), connections.sweep_forever()):
            self.broker.keeper.start_task(work)

    def _cluster_side(self) -> ClusterSide | None:
        given = self._given
        if given.listen is None:
            return None
        from zeus_agent import cluster_side
        from zeus_agent.cluster.kube_api import ApiAddress, ApiNotConfigured

        try:
            api = (
                ApiAddress.in_cluster()
                if given.kube_api is None
                else ApiAddress(given.kube_api, given.kube_token_file, given.kube_ca_file)
            )
        except ApiNotConfigured as error:
            raise UsageError(str(error)) from None
        return cluster_side.ClusterSide(
            cluster_side.ClusterOptions(
                given.node_name, given.pod_resources, given.operator_account, api
            ),
            self.broker,
            self._metrics,
            given.state_dir,
        )

    def _checks(self) -> list[Callable[[], str]]:
        keeper, certificates, cluster = self.broker.keeper, self._certificates, self._cluster

        def looked_at() -> str:
            return "" if keeper.is_looked_at else "the GPUs have not been looked at yet"

        def certificate() -> str:
            return "" if certificates is None else certificates.missing()

        def expected_gpus() -> str:
            return readiness.gpus_expected(keeper.note, has_library=keeper.library is not None)

        checks = [looked_at, certificate]
        if cluster is not None:
            checks.append(cluster.not_ready)
        return [*checks, expected_gpus] if self._given.expect_gpus else checks


async def _until_end(broker: Broker, stop: asyncio.Event, idle_exit_seconds: float | None) -> int:
    """Wait for a reason to end; return the exit code."""
    stopping = asyncio.create_task(_wait_for(stop))
    period = None if idle_exit_seconds is None else min(1.0, idle_exit_seconds / 4.0)
    while True:
        ends: set[asyncio.Future[None]] = {stopping, broker.failure}
        await asyncio.wait(ends, timeout=period, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            return 0
        if broker.failure.done():
            error = broker.failure.exception()
            note(logger, logging.CRITICAL, "the agent ends", reason=str(error))
            if not isinstance(error, DriverBroken):
                logger.critical("a task failed", exc_info=error)
            stopping.cancel()
            return EXIT_DRIVER if isinstance(error, DriverBroken) else 1
        if idle_exit_seconds is not None and broker.idle_seconds() >= idle_exit_seconds:
            note(logger, logging.INFO, "no session for a while: the agent ends")
            stopping.cancel()
            return 0


async def _whatever_happens(work: Coroutine[Any, Any, None]) -> None:
    """Do a part of the end; a fault in it must not keep the limits from being put back."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            await work
    except Exception:
        logger.exception("a part of the agent has not ended well")


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


if __name__ == "__main__":
    sys.exit(main())
