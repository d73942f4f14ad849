"""Who calls: on the Unix socket the kernel says it, on TCP a token (`bearer_tokens`)."""

from __future__ import annotations

import os
from asyncio.trsock import TransportSocket
from typing import Protocol

from zeus_agent import peers
from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.connections import Connection
from zeus_agent.http1 import Request
from zeus_agent.leases import Refused
from zeus_agent.sessions import Owner
from zeus_runtime.protocol import ErrorCode

Caller = Owner | PodCaller | ServiceCaller


class Authenticator(Protocol):
    """Tells who calls."""

    is_local: bool
    """Whether its callers are processes of this machine, who may see what concerns all of it."""

    async def caller(
        self, request: Request, connection: Connection, *, for_renewal: bool
    ) -> Caller:
        """Return who calls.

        Args:
            request: what is asked.
            connection: on which it came.
            for_renewal: the request opens nothing and sets nothing.

        Raises:
            Refused: it is nobody who may call.
        """


class UnixPeers:
    """Processes, as the kernel vouches for them.

    Args:
        allowed_uids: users that may call besides root and the agent's own.
    """

    is_local = True

    def __init__(self, allowed_uids: frozenset[int] = frozenset()) -> None:
        self._allowed_uids = allowed_uids | administrators()

    async def caller(
        self,
        request: Request,  # noqa: ARG002 -- what a process says of itself does not count
        connection: Connection,
        *,
        for_renewal: bool,  # noqa: ARG002 -- a process is known by its connection, old or new
    ) -> Owner:
        """Return the process that connected; looked up once a connection.

        Raises:
            Refused: its user may not call, or it has ended.
        """
        known = connection.identity
        if isinstance(known, Owner):
            return known
        peer = peers.credentials(socket_of(connection))
        if peer.uid not in self._allowed_uids:
            raise Refused(
                ErrorCode.FORBIDDEN,
                f"user {peer.uid} may not call this agent; start it with --allow-uid {peer.uid}",
            )
        owner, pidfd = identify(connection)
        os.close(pidfd)
        connection.identity = owner
        connection.recognised(("uid", owner.uid))
        return owner


def administrators() -> frozenset[int]:
    """Return the users that administer the agent: root, and its own."""
    return frozenset({0, os.geteuid()})


def identify(connection: Connection) -> tuple[Owner, int]:
    """Return the process at the other end and a pidfd of it, which the caller closes.

    Raises:
        Refused: it can't be identified, or is no longer the one that it was.
    """
    try:
        owner, pidfd = peers.identify(socket_of(connection))
    except peers.PeerGone as error:
        raise Refused(ErrorCode.FORBIDDEN, str(error)) from None
    known = connection.identity
    if isinstance(known, Owner) and known != owner:
        os.close(pidfd)
        raise Refused(ErrorCode.FORBIDDEN, f"pid {owner.pid} now belongs to another process")
    return owner, pidfd


def socket_of(connection: Connection) -> TransportSocket:
    """Return the socket of a connection.

    Raises:
        ConnectionError: the caller has hung up.
    """
    if connection.transport is None:
        raise ConnectionResetError("the caller has hung up")
    connected: TransportSocket = connection.transport.get_extra_info("socket")
    return connected
