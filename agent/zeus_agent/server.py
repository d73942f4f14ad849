"""Around every request: who calls, whether they may, errors, counting."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from zeus_agent import answers, peers
from zeus_agent.answers import Answer
from zeus_agent.api import Api, Call
from zeus_agent.authenticators import Authenticator, Caller, socket_of
from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.connections import Connection
from zeus_agent.http1 import BadHttp, Request
from zeus_agent.leases import Refused
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics
from zeus_agent.operations import Access, NoOperation, Operation, Router
from zeus_agent.sessions import Owner
from zeus_runtime.protocol import ErrorCode

logger = logging.getLogger("zeus_agent.server")

UNKNOWN_ROUTE = "unknown"
QUIET_SECONDS = 60.0
MAX_TOLD = 256

_TELLING = frozenset({ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN, ErrorCode.NOT_OWNER})
"""Refusals that somebody should look into; the log says each of them once a minute and caller."""


class Server:
    """Answers the connections of one or more listeners.

    Args:
        api: does what is asked.
        operations: those that are served here.
        authenticator: tells who calls; None: only probes and Prometheus, which anyone may be.
        metrics: counts.
        clock: monotonic seconds.

    Attributes:
        on_pod_refused: told of each refusal of a pod.
    """

    def __init__(
        self,
        api: Api,
        operations: tuple[Operation, ...],
        authenticator: Authenticator | None,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._router = Router(operations)
        self._authenticator = authenticator
        self._metrics = metrics
        self._clock = clock
        self.on_pod_refused: Callable[[PodCaller, Refused], None] | None = None
        self._told: dict[tuple[object, ErrorCode], float] = {}

    # ---- what connections ask -------------------------------------------------

    async def answer(self, request: Request, connection: Connection) -> Answer:
        """Answer a request; every error becomes an `ApiError`."""
        began = self._clock()
        route = UNKNOWN_ROUTE
        caller: Caller | None = None
        try:
            match = self._router.find(request)
            operation = match.operation
            route = operation.route
            if operation.access is not Access.ANYONE and self._authenticator is not None:
                caller = await self._authenticator.caller(
                    request, connection, for_renewal=operation.is_renewal
                )
                # What ends with a connection that has ended already would end with none.
                connection.require_caller()
                self._permit(operation, caller, self._authenticator)
            call = Call(request, connection, caller, match.parameters)
            answer = await self._api.handlers[operation.name](call)
        except Refused as refused:
            answer = self._refuse(refused, request, connection, caller)
        except NoOperation as missing:
            answer = self._not_there(missing)
        except BadHttp as error:
            answer = self._counted(answers.error(ErrorCode.BAD_REQUEST, str(error)))
        except ConnectionError as error:
            answer = answers.error(ErrorCode.BAD_REQUEST, str(error), closes=True)
        except Exception:
            # A fault of ours with one request must not end the process that holds the limits.
            logger.exception("a request failed")
            answer = self._counted(
                answers.error(ErrorCode.INTERNAL, "the agent failed; its log says more"),
                ErrorCode.INTERNAL,
            )
        self._metrics.answered(route, self._clock() - began)
        return answer

    def malformed(self, error: BadHttp) -> Answer:
        """Answer what is no request."""
        refusal = answers.error(ErrorCode.BAD_REQUEST, str(error), status=error.status)
        return self._counted(refusal)

    def is_needed(self, connection: Connection) -> bool:
        """Whether a session ends with the connection."""
        return self._api.is_needed(connection)

    def connection_lost(self, connection: Connection) -> None:
        """Tell the sessions that end with it."""
        self._api.connection_lost(connection)

    # ---- inside ---------------------------------------------------------------

    def _permit(self, operation: Operation, caller: Caller, authenticator: Authenticator) -> None:
        """Check that the caller may call this.

        Raises:
            Refused: it may not.
        """
        access = operation.access
        if access is Access.MEMBER and isinstance(caller, (Owner, PodCaller)):
            return
        if access is Access.READER and self._api.is_reader(caller):
            return
        if access is Access.LOCAL and authenticator.is_local:
            return
        raise Refused(ErrorCode.FORBIDDEN, f"this is for {access.value} alone")

    def _refuse(
        self, refused: Refused, request: Request, connection: Connection, caller: Caller | None
    ) -> Answer:
        if refused.code in _TELLING:
            self._tell(refused, request, connection, caller)
        if isinstance(caller, PodCaller) and self.on_pod_refused is not None:
            self.on_pod_refused(caller, refused)
        return self._counted(answers.refusal(refused), refused.code)

    def _not_there(self, missing: NoOperation) -> Answer:
        if not missing.allowed:
            refusal = answers.error(
                ErrorCode.NOT_FOUND, "no such path; see the reference of the agent's API"
            )
            return self._counted(refusal, ErrorCode.NOT_FOUND)
        allow = ("Allow", ", ".join(missing.allowed))
        return self._counted(
            answers.error(
                ErrorCode.BAD_REQUEST,
                "this path does not take this method",
                status=405,
                headers=(allow,),
            )
        )

    def _counted(self, answer: Answer, code: ErrorCode = ErrorCode.BAD_REQUEST) -> Answer:
        self._metrics.refused(code.value)
        return answer

    def _tell(
        self, refused: Refused, request: Request, connection: Connection, caller: Caller | None
    ) -> None:
        """Log a refusal, unless the same caller has just been refused the same."""
        who = _names_of(caller, connection)
        # A user may have any number of processes: which of them it was tells nothing apart.
        key = (tuple(value for name, value in who.items() if name != "pid"), refused.code)
        now = self._clock()
        if now - self._told.get(key, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        self._told.pop(key, None)
        self._told[key] = now
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]
        note(
            logger,
            logging.WARNING,
            "caller refused",
            **who,
            path=request.head.target,
            reason=refused.message,
        )


def _names_of(caller: Caller | None, connection: Connection) -> dict[str, object]:
    """Return who calls, as far as it is known, for the log."""
    if isinstance(caller, PodCaller):
        return {"namespace": caller.namespace, "pod": caller.pod}
    if isinstance(caller, ServiceCaller):
        return {"namespace": caller.namespace, "service_account": caller.service_account}
    if isinstance(caller, Owner):
        return {"pid": caller.pid, "uid": caller.uid}
    transport = connection.transport
    address = None if transport is None else transport.get_extra_info("peername")
    if isinstance(address, tuple):
        return {"address": address[0]}
    try:
        peer = peers.credentials(socket_of(connection))
    except OSError:  # it has hung up
        return {"pid": None, "uid": None}
    return {"pid": peer.pid, "uid": peer.uid}
