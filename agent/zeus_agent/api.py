"""The operations of the API: reads a request, asks the broker, makes the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from zeus_agent import authenticators, bodies, openapi
from zeus_agent.answers import NOTHING, PROMETHEUS, Answer, as_json, ended
from zeus_agent.authenticators import Caller
from zeus_agent.broker import Broker
from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.connections import Connection
from zeus_agent.http1 import Request
from zeus_agent.leases import Refused
from zeus_agent.metrics import Metrics
from zeus_agent.readiness import Readiness
from zeus_agent.reports import Reports
from zeus_agent.sessions import Member, Owner
from zeus_runtime.protocol import ErrorCode

SHOWN_SECONDS = 1.0
"""How old the metrics may be that are shown to whoever has not said who it is."""

Handler = Callable[["Call"], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose caller is known, and may call this.

    Args:
        caller: None where anyone may call.
        parameters: of the path, unchecked.
    """

    request: Request
    connection: Connection
    caller: Caller | None
    parameters: dict[str, str]

    @property
    def member(self) -> Member:
        """The caller, of an operation for members."""
        assert isinstance(self.caller, (Owner, PodCaller))
        return self.caller

    @property
    def session(self) -> str:
        """The session's name.

        Raises:
            Refused: it is malformed.
        """
        return bodies.session_name(self.parameters["session"])

    @property
    def gpu(self) -> str:
        """The GPU's UUID.

        Raises:
            Refused: it is malformed.
        """
        return bodies.gpu_uuid(self.parameters["gpu"])


class GpuShare(Protocol):
    """What a pod has of a board."""

    @property
    def exclusive(self) -> bool:
        """Whether nobody else has a part of it."""


class Owners(Protocol):
    """Tells which board is whose; `cluster.gpu_owners` does."""

    async def share(self, caller: PodCaller, gpu_uuid: str) -> GpuShare | None:
        """Return what the pod has of a board; None: nothing.

        Raises:
            Refused: nobody can tell now.
        """


class Api:
    """Does what is asked.

    Args:
        broker: does the work.
        metrics: what is shown.
        readiness: tells whether the agent is ready.
        owners: tells which GPU is which pod's; None: there are no pods.
        reports: keeps what pods report; None: there are no pods.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        broker: Broker,
        metrics: Metrics,
        readiness: Readiness,
        *,
        owners: Owners | None = None,
        reports: Reports | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._metrics = metrics
        self._readiness = readiness
        self._administrators = authenticators.administrators()
        self._owners = owners
        self._reports = reports
        self._clock = clock
        self._shown: Answer | None = None
        self._shown_until_seconds = 0.0
        self.handlers: dict[str, Handler] = {
            "healthz": self._healthz,
            "readyz": self._readyz,
            "metrics": self._show_metrics,
            "openapi": self._openapi,
            "node": self._node,
            "leases": self._leases,
            "open_session": self._open_session,
            "get_session": self._get_session,
            "close_session": self._close_session,
            "renew": self._renew,
            "report": self._report,
            "set_power_limit": self._set_power_limit,
            "release": self._release,
            "reports": self._newest_reports,
            "report_of_pod": self._report_of_pod,
        }

    def is_reader(self, caller: Caller) -> bool:
        """Whether the caller may read reports: the operator, or who administers the node."""
        if isinstance(caller, Owner):
            return caller.uid in self._administrators
        return isinstance(caller, ServiceCaller)

    def is_needed(self, connection: Connection) -> bool:
        """Whether a session ends with the connection."""
        return self._broker.sessions.holds(connection)

    def connection_lost(self, connection: Connection) -> None:
        """Tell the sessions that end with it."""
        self._broker.connection_lost(connection)

    # ---- the agent ------------------------------------------------------------

    async def _healthz(self, _call: Call) -> Answer:
        return as_json({"status": "ok"})

    async def _readyz(self, _call: Call) -> Answer:
        missing = self._readiness.missing()
        if missing:
            raise Refused(ErrorCode.NOT_READY, "; ".join(missing), missing=missing)
        return as_json({"status": "ready", "note": self._broker.note})

    async def _show_metrics(self, call: Call) -> Answer:
        now = self._clock()
        # Anyone on the network may ask the listener for probes, as often as they like; the limits
        # must not wait while text is made for them.
        if call.caller is None and self._shown is not None and now < self._shown_until_seconds:
            return self._shown
        self._broker.show_metrics()
        self._shown = Answer(200, self._metrics.text(), PROMETHEUS)
        self._shown_until_seconds = now + SHOWN_SECONDS
        return self._shown

    async def _openapi(self, _call: Call) -> Answer:
        return Answer(200, openapi.text().encode())

    async def _node(self, call: Call) -> Answer:
        caller = call.member
        info = await self._broker.node_info()
        if isinstance(caller, PodCaller):
            shares = await asyncio.gather(*(self._share(caller, gpu.uuid) for gpu in info.gpus))
            own = zip(info.gpus, shares, strict=True)
            info = replace(info, gpus=tuple(gpu for gpu, share in own if share is not None))
        return as_json(asdict(info))

    async def _leases(self, call: Call) -> Answer:
        return as_json([asdict(lease) for lease in self._broker.leases(call.member)])

    # ---- sessions -------------------------------------------------------------

    async def _open_session(self, call: Call) -> Answer:
        name, caller, connection = call.session, call.member, call.connection
        wanted = bodies.session_request(bodies.json_object(call.request.body))

        def process() -> int:
            return authenticators.identify(connection)[1]

        is_process = isinstance(caller, Owner)
        info = self._broker.open_session(
            name, caller, wanted, connection=connection, watch=process if is_process else None
        )
        return as_json(asdict(info))

    async def _get_session(self, call: Call) -> Answer:
        session = self._broker.sessions.get(call.session, call.member)
        return as_json(asdict(self._broker.session_info(session)))

    async def _renew(self, call: Call) -> Answer:
        return as_json(asdict(self._broker.renew(call.session, call.member, call.connection)))

    async def _report(self, call: Call) -> Answer:
        name, caller = call.session, call.member
        result = bodies.result(bodies.json_object(call.request.body))
        self._broker.report(name, caller, result, call.connection)
        if self._reports is not None and isinstance(caller, PodCaller):
            await self._reports.keep(caller, result)
        return NOTHING

    async def _close_session(self, call: Call) -> Answer:
        """End a session: its owner may, and an administrator."""
        caller = call.member
        any_owner = isinstance(caller, Owner) and caller.uid in self._administrators
        restored = await self._broker.close_session(call.session, caller, any_owner=any_owner)
        return ended(restored=restored)

    # ---- limits ---------------------------------------------------------------

    async def _set_power_limit(self, call: Call) -> Answer:
        name, caller, gpu = call.session, call.member, call.gpu
        wanted = bodies.power_limit_request(bodies.json_object(call.request.body))
        shared = False
        if isinstance(caller, PodCaller):
            share = await self._share(caller, gpu)
            call.connection.require_caller()
            if share is None:
                # The same for a GPU of another pod and one that is not there.
                raise Refused(
                    ErrorCode.NOT_OWNER,
                    f"GPU {gpu} was not given to pod {caller.namespace}/{caller.pod}; name one "
                    "that its container was given (its UUID, as NVML in the container says)",
                    gpu=gpu,
                )
            shared = not share.exclusive
        lease = await self._broker.set_power_limit(
            name,
            caller,
            gpu,
            round(wanted.power_limit_watts * 1000.0),
            wanted.sequence,
            connection=call.connection,
            shared=shared,
        )
        return as_json(vars(lease))  # flat, and asked for most: asdict takes ten times as long

    async def _release(self, call: Call) -> Answer:
        name, gpu = call.session, call.gpu
        restored = await self._broker.release(name, call.member, gpu, call.connection)
        return ended(restored=restored)

    async def _share(self, caller: PodCaller, gpu_uuid: str) -> GpuShare | None:
        if self._owners is None:
            return None
        return await self._owners.share(caller, gpu_uuid)

    # ---- reports --------------------------------------------------------------

    async def _newest_reports(self, _call: Call) -> Answer:
        return Answer(200, b"[]" if self._reports is None else await self._reports.newest())

    async def _report_of_pod(self, call: Call) -> Answer:
        pod_uid = bodies.pod_uid(call.parameters["pod"])
        report = None if self._reports is None else await self._reports.of_pod(pod_uid)
        if report is None:
            raise Refused(
                ErrorCode.NOT_FOUND,
                f"no report of pod {pod_uid}: it has sent none to this agent, or over a week ago",
                pod=pod_uid,
            )
        return Answer(200, report)
