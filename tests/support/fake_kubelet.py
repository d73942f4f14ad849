"""The kubelet's PodResources service, over real gRPC at a real Unix socket.

Its messages are packed by hand, field by field as the kubelet's API numbers them, so that a wrong
number in the agent's own description of them can't hide behind itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import grpc
import grpc.aio

SERVICE = "v1.PodResourcesLister"

Devices = Mapping[str, Iterable[str]]
"""Ids of devices by resource."""


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field of protobuf's encoding."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _devices(devices: Devices, field: int) -> bytes:
    topology = _field(3, _field(1, _number(1, 1)))  # NUMA node 1: the agent reads none of it
    return b"".join(
        _field(
            field,
            _field(1, resource.encode())
            + b"".join(_field(2, each.encode()) for each in ids)
            + topology,
        )
        for resource, ids in devices.items()
    )


def _claim(namespace: str, drivers: Iterable[str]) -> bytes:
    """Return a container's resource claim that each of some drivers has given a device for."""
    given = b"".join(
        _field(4, _field(2, driver.encode()) + _field(3, b"pool") + _field(4, b"gpu-0"))
        for driver in drivers
    )
    return _field(5, _field(2, b"claim") + _field(3, namespace.encode()) + given)


def _pod(namespace: str, name: str, containers: Iterable[Devices], drivers: Sequence[str]) -> bytes:
    packed = b"".join(
        _field(3, _field(1, b"main") + _devices(each, 2) + _field(3, _varint(4) + _varint(5)))
        for each in containers
    )
    if drivers:
        packed += _field(3, _field(1, b"claims") + _claim(namespace, drivers))
    return _field(1, _field(1, name.encode()) + _field(2, namespace.encode()) + packed)


class FakeKubelet:
    """Serves what the test puts in; a context manager in the test's event loop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: list[str] = []
        self.hangs = False
        self.garbage = b""  # sent in place of a list
        self._listed: list[tuple[str, str, list[Devices], tuple[str, ...]]] = []
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeKubelet:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    def give(
        self, namespace: str, name: str, *containers: Devices, claims: tuple[str, ...] = ()
    ) -> None:
        """List a pod: containers with devices, and one with a claim that drivers have served."""
        self._listed.append((namespace, name, list(containers), claims))

    def take(self, namespace: str, name: str) -> None:
        """List no pod of that name any more."""
        self._listed = [each for each in self._listed if each[:2] != (namespace, name)]

    async def start(self) -> None:
        """Make a new socket and serve at it."""
        path = self.directory / "kubelet.sock"
        path.unlink(missing_ok=True)
        server = grpc.aio.server()
        handlers = {"List": grpc.unary_unary_rpc_method_handler(self._list)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """End; the socket's file stays, as after a kill."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace=None)

    async def restart(self) -> None:
        """What an upgrade of a node does."""
        await self.stop()
        await self.start()

    async def _list(self, _request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls.append("List")
        if self.hangs:
            await asyncio.Event().wait()
        return self.garbage or b"".join(_pod(*each) for each in self._listed)
