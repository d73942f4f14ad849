"""The HTTP API over a Unix socket; `zeus_runtime.protocol` lists the routes and bodies."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import weakref
from asyncio.trsock import TransportSocket
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from zeus_agent import bodies, peers
from zeus_agent.broker import Broker
from zeus_agent.leases import Refused
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics
from zeus_agent.sessions import Owner
from zeus_runtime.protocol import API_PREFIX, ApiError, ErrorCode

logger = logging.getLogger("zeus_agent.server")

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_SECONDS = 5.0
IDLE_CONNECTION_SECONDS = 30.0
"""Longer than clients pause between calls; what sends no whole header for so long is closed."""

_STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_OWNER: 403,
    ErrorCode.GPU_SHARED: 403,
    ErrorCode.POLICY_DENIED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.GPU_LEASED: 409,
    ErrorCode.STALE_SEQUENCE: 409,
    ErrorCode.FOREIGN_CHANGE: 409,
    ErrorCode.TOO_MANY_SESSIONS: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.NOT_SUPPORTED: 501,
    ErrorCode.NVML_ERROR: 502,
    ErrorCode.GPU_LOST: 503,
    ErrorCode.IDENTITY_UNAVAILABLE: 503,
    ErrorCode.NO_PERMISSION: 503,
    ErrorCode.NVML_TIMEOUT: 504,
    ErrorCode.STATE_NOT_SAVED: 507,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Knows the caller, reads the request, asks the broker, writes the answer.

    Args:
        broker: does the work.
        metrics: counts.
        allowed_uids: users that may call besides root and the agent's own.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        broker: Broker,
        metrics: Metrics,
        allowed_uids: frozenset[int] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._metrics = metrics
        self._administrators = frozenset({0, os.geteuid()})
        self._allowed_uids = allowed_uids | self._administrators
        self._clock = clock
        self._owners: weakref.WeakKeyDictionary[asyncio.BaseTransport, Owner] = (
            weakref.WeakKeyDictionary()
        )

    def runner(self, idle_connection_seconds: float = IDLE_CONNECTION_SECONDS) -> web.AppRunner:
        """Return what serves the application on a listening socket.

        Args:
            idle_connection_seconds: a connection that waits for a request (its first one too)
                longer than this is closed.
        """
        return web.AppRunner(
            self.application(),
            access_log=None,
            handle_signals=False,
            handler_cancellation=False,
            shutdown_timeout=1.0,
            keepalive_timeout=idle_connection_seconds,
        )

    def application(self) -> web.Application:
        """Return the aiohttp application."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        application = web.Application(middlewares=[guard], client_max_size=MAX_BODY_BYTES)
        session = API_PREFIX + "/sessions/{session}"
        limit = session + "/gpus/{gpu}/power-limit"
        routes = [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._show_metrics),
            web.get(API_PREFIX + "/node", self._node),
            web.get(API_PREFIX + "/leases", self._leases),
            web.put(session, self._open_session),
            web.get(session, self._get_session),
            web.delete(session, self._close_session),
            web.post(session + "/renew", self._renew),
            web.put(session + "/report", self._report),
            web.put(limit, self._set_limit),
            web.delete(limit, self._release),
        ]
        application.add_routes(routes)
        return application

    # ---- around every request -------------------------------------------------

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse strangers, turn every error into an `ApiError`, count."""
        began = self._clock()
        resource = request.match_info.route.resource
        route = "unknown" if resource is None else f"{request.method} {resource.canonical}"
        try:
            if route != "GET /healthz":
                self._admit(request)
            response = await handler(request)
        except Refused as refused:
            response = self._refuse(request, refused)
        except web.HTTPException as error:
            response = self._refuse_http(error)
        except TimeoutError:
            response = self._error(408, ErrorCode.BAD_REQUEST, "the body did not arrive in time")
        except (ConnectionError, web.RequestPayloadError) as error:
            # The caller has hung up, or sends what is not HTTP: nothing is wrong with the agent.
            response = self._error(400, ErrorCode.BAD_REQUEST, f"the body did not arrive: {error}")
        except Exception:
            # A fault of ours with one request must not end the process that holds the limits.
            logger.exception("a request failed")
            response = self._error(
                _STATUS[ErrorCode.INTERNAL],
                ErrorCode.INTERNAL,
                "the agent failed; its log says more",
            )
        self._metrics.answered(route, self._clock() - began)
        return response

    def _refuse(self, request: web.Request, refused: Refused) -> web.Response:
        if refused.code is ErrorCode.FORBIDDEN:
            transport = request.transport  # None: the caller did not wait for its refusal
            peer = None if transport is None else peers.credentials(_socket(transport))
            note(
                logger,
                logging.WARNING,
                "caller refused",
                pid=None if peer is None else peer.pid,
                uid=None if peer is None else peer.uid,
                path=request.path,
                reason=refused.message,
            )
        return self._error(_STATUS[refused.code], refused.code, refused.message, refused.details)

    def _refuse_http(self, error: web.HTTPException) -> web.Response:
        """Answer what aiohttp refuses by itself: unknown paths and methods, huge bodies."""
        code = ErrorCode.NOT_FOUND if error.status == 404 else ErrorCode.BAD_REQUEST
        text = {
            404: "no such path; see the reference of the agent's API",
            405: "this path does not take this method",
            413: f"the body is longer than {MAX_BODY_BYTES} bytes",
        }.get(error.status, error.reason)
        response = self._error(error.status, code, text)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response

    def _error(
        self, status: int, code: ErrorCode, message: str, details: dict[str, Any] | None = None
    ) -> web.Response:
        self._metrics.refused(code.value)
        return _json(asdict(ApiError(code.value, message, details or {})), status)

    def _admit(self, request: web.Request) -> None:
        """Let in the agent's own user, root, and those allowed.

        Raises:
            Refused: it is somebody else.
        """
        peer = peers.credentials(_socket(_transport(request)))
        if peer.uid not in self._allowed_uids:
            raise Refused(
                ErrorCode.FORBIDDEN,
                f"user {peer.uid} may not call this agent; start it with --allow-uid {peer.uid}",
            )

    def _owner(self, request: web.Request) -> Owner:
        """Return the calling process.

        Raises:
            Refused: it can't be identified.
        """
        transport = _transport(request)
        owner = self._owners.get(transport)
        if owner is None:
            owner, pidfd = self._identify(request)
            os.close(pidfd)
            self._owners[transport] = owner
        return owner

    @staticmethod
    def _identify(request: web.Request) -> tuple[Owner, int]:
        try:
            return peers.identify(_socket(_transport(request)))
        except peers.PeerGone as error:
            raise Refused(ErrorCode.FORBIDDEN, str(error)) from None

    # ---- routes ---------------------------------------------------------------

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _json({"status": "ready", "note": self._broker.note})

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        self._broker.show_metrics()
        return web.Response(
            body=self._metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _node(self, _request: web.Request) -> web.Response:
        return _json(asdict(await self._broker.node_info()))

    async def _leases(self, _request: web.Request) -> web.Response:
        return _json([asdict(lease) for lease in self._broker.leases()])

    async def _open_session(self, request: web.Request) -> web.Response:
        name = _session_name(request)
        wanted = bodies.session_request(await _body(request))
        owner, pidfd = self._identify(request)
        return _json(asdict(self._broker.open_session(name, owner, pidfd, wanted)))

    async def _get_session(self, request: web.Request) -> web.Response:
        session = self._broker.sessions.get(_session_name(request))
        return _json(asdict(self._broker.session_info(session)))

    async def _renew(self, request: web.Request) -> web.Response:
        info = self._broker.renew(_session_name(request), self._owner(request))
        return _json(asdict(info))

    async def _report(self, request: web.Request) -> web.Response:
        result = bodies.result(await _body(request))
        self._broker.report(_session_name(request), self._owner(request), result)
        return web.Response(status=204)

    async def _set_limit(self, request: web.Request) -> web.Response:
        wanted = bodies.power_limit_request(await _body(request))
        lease = await self._broker.set_power_limit(
            _session_name(request),
            self._owner(request),
            bodies.gpu_uuid(request.match_info["gpu"]),
            round(wanted.power_limit_watts * 1000.0),
            wanted.sequence,
        )
        return _json(asdict(lease))

    async def _release(self, request: web.Request) -> web.Response:
        gpu = bodies.gpu_uuid(request.match_info["gpu"])
        restored = await self._broker.release(_session_name(request), self._owner(request), gpu)
        return _ended(restored)

    async def _close_session(self, request: web.Request) -> web.Response:
        """End a session: its owner may, and an administrator."""
        name = _session_name(request)
        owner = self._owner(request)
        if owner.uid not in self._administrators:
            self._broker.sessions.use(name, owner, self._clock())
        return _ended(await self._broker.close_session(name))


def _transport(request: web.Request) -> asyncio.Transport:
    """Return the connection of a request.

    Raises:
        ConnectionError: the caller has hung up.
    """
    if request.transport is None:
        raise ConnectionResetError("the caller has hung up")
    return request.transport


def _socket(transport: asyncio.Transport) -> TransportSocket:
    connection: TransportSocket = transport.get_extra_info("socket")
    return connection


def _session_name(request: web.Request) -> str:
    return bodies.session_name(request.match_info["session"])


async def _body(request: web.Request) -> dict[str, Any]:
    """Read the body, however slowly it comes, within a bound.

    Raises:
        TimeoutError: it did not come in time.
        web.HTTPRequestEntityTooLarge: it is too long.
    """
    async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
        return bodies.json_object(await request.read())


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(
        body=json.dumps(body, allow_nan=False).encode(),
        status=status,
        content_type="application/json",
    )


def _ended(restored: bool) -> web.Response:
    """204: the limit is back.  202: it is saved and will be put back when the GPU lets us."""
    return web.Response(status=204) if restored else _json({"restored": False}, 202)
