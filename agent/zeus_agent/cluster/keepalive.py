"""A connection on which nothing is sent looks the same alive and dead.  The kernel can ask."""

from __future__ import annotations

import contextlib
import socket

import aiohttp

_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),  # seconds of silence before it asks
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


def notice_a_dead_peer(response: aiohttp.ClientResponse) -> None:
    """Have the connection of a long answer break within half a minute of its peer's death."""
    connection = response.connection
    transport = None if connection is None else connection.transport
    peer = None if transport is None else transport.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):  # a network that knows no such options
            for level, option, value in _OPTIONS:
                peer.setsockopt(level, option, value)
