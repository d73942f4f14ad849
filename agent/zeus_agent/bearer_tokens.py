"""Callers on TCP: the token that a request shows, and nothing else that it says."""

from __future__ import annotations

from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.cluster.tokens import ReviewUnavailable, TokenAuthenticator, Unauthenticated
from zeus_agent.connections import Connection
from zeus_agent.http1 import Request
from zeus_agent.leases import Refused
from zeus_runtime.protocol import AGENT_AUDIENCE, ErrorCode


class BearerTokens:
    """Pods, and the operator, as the API server vouches for them.

    A token is checked with each request (`TokenAuthenticator` remembers good ones for seconds):
    a connection does not outlive the pod or the token that it was made with.  No token gets into
    a log or an answer.

    Args:
        tokens: reviews them.
    """

    is_local = False

    def __init__(self, tokens: TokenAuthenticator) -> None:
        self._tokens = tokens

    async def caller(
        self, request: Request, connection: Connection, *, for_renewal: bool
    ) -> PodCaller | ServiceCaller:
        """Return the pod or service that shows its token.

        Raises:
            Refused: there is no token, it proves nothing here, or nobody can tell now.
        """
        scheme, _, token = request.head.headers.get("authorization", "").partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(
                ErrorCode.UNAUTHENTICATED,
                "send the pod's ServiceAccount token of the audience "
                f"{AGENT_AUDIENCE!r} as `Authorization: Bearer …`",
                reason="missing",
            )
        try:
            caller = await self._tokens.authenticate(
                token, peer=_address_of(connection), for_renewal=for_renewal
            )
        except Unauthenticated as error:
            raise Refused(
                ErrorCode.UNAUTHENTICATED, str(error), reason=error.reason.value
            ) from None
        except ReviewUnavailable as error:
            raise Refused(
                ErrorCode.IDENTITY_UNAVAILABLE,
                str(error),
                retry_after_seconds=error.retry_after_seconds,
            ) from None
        if connection.group is None:
            connection.recognised(_group_of(caller))
        return caller


def _address_of(connection: Connection) -> str:
    """Return the address at the other end, "" if the caller has hung up."""
    transport = connection.transport
    name = None if transport is None else transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def _group_of(caller: PodCaller | ServiceCaller) -> tuple[str, ...]:
    if isinstance(caller, PodCaller):
        return ("pod", caller.pod_uid)
    return ("service", caller.namespace, caller.service_account)
