"""The kubelet's PodResources API: which devices the pods of this node have.

A gRPC service at a Unix socket, `v1.PodResourcesLister` (Kubernetes: "Monitoring device plugin
resources").  The kubelet makes a new socket each time it starts, so its directory is mounted, not
the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from zeus_agent.cluster.ownership import DeviceSet, PodDevices
from zeus_agent.cluster.proto import pod_resources_pb2 as messages

SOCKET_NAME = "kubelet.sock"
TIMEOUT_SECONDS = 1.0
"""Half of what clients wait for the agent."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""As much as the kubelet itself sends at most."""

_LIST = "/v1.PodResourcesLister/List"
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel means a new connection
)


class KubeletUnavailable(Exception):  # noqa: N818 -- a fact about who is asked
    """The kubelet has not answered; the text says where and why."""


class PodResources:
    """A client of the kubelet.  Use it in one event loop; close it at the end.

    Args:
        directory: of the socket, usually /var/lib/kubelet/pod-resources.
    """

    def __init__(self, directory: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._path = directory / SOCKET_NAME
        self._timeout_seconds = timeout_seconds
        self._channel: grpc.aio.Channel | None = None
        self._socket: tuple[int, int, int] | None = None
        self._one_call = asyncio.Lock()  # to close a channel cancels the calls on it

    async def close(self) -> None:
        """Close the connection."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def list(self) -> tuple[PodDevices, ...]:
        """Return the devices of all pods that the kubelet lists, those that are over included.

        Raises:
            KubeletUnavailable: there is no answer now.
        """
        async with self._one_call:
            answer = await self._list()
        return tuple(
            PodDevices(
                pod.namespace,
                pod.name,
                tuple(_set(each) for container in pod.containers for each in container.devices),
                frozenset(_claim_drivers(pod)),
            )
            for pod in answer.pods
        )

    async def _list(self) -> messages.ListResponse:
        channel = await self._connected()
        call = channel.unary_unary(_LIST, request_serializer=messages.ListRequest.SerializeToString)
        try:
            data = await call(messages.ListRequest(), timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                self._socket = None  # connect anew, without the back-off of the channel
            raise KubeletUnavailable(
                f"the kubelet at {self._path} answered List with {error.code().name}: "
                f"{error.details()}"
            ) from error
        try:
            # Not left to gRPC, which would log a traceback and return None.
            answer: messages.ListResponse = messages.ListResponse.FromString(data)
        except DecodeError as error:
            raise KubeletUnavailable(
                f"the kubelet at {self._path} answered List with what is no list: {error}"
            ) from error
        return answer

    async def _connected(self) -> grpc.aio.Channel:
        """Return a channel to the socket that is there now."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise KubeletUnavailable(
                f"there is no socket {self._path} ({error.strerror}); mount the kubelet's "
                "directory pod-resources, and name it with --pod-resources"
            ) from error
        # A new socket may well get the number of the one that was removed.
        socket = (found.st_dev, found.st_ino, found.st_ctime_ns)
        if self._channel is None or socket != self._socket:
            await self.close()
            self._channel = grpc.aio.insecure_channel(f"unix:{self._path}", options=_OPTIONS)
            self._socket = socket
        return self._channel


def _set(devices: messages.Devices) -> DeviceSet:
    return DeviceSet(devices.resource_name, tuple(devices.device_ids))


def _claim_drivers(pod: messages.Pod) -> Iterable[str]:
    for container in pod.containers:
        for claim in container.dynamic_resources:
            for given in claim.claim_resources:
                yield given.driver_name
