"""One resource of the plug-in, as the kubelet calls it (device plugin API v1beta1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import Message

from gpu_simulator.device_plugin.container import ContainerFiles
from gpu_simulator.device_plugin.inventory import OfferedDevice, preferred
from gpu_simulator.device_plugin.proto import deviceplugin_pb2 as api

logger = logging.getLogger("gpu_simulator.device_plugin")

API_VERSION = "v1beta1"
KUBELET_SOCKET = "kubelet.sock"
HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
_REGISTER_SECONDS = 5.0


class ResourceService:
    """The devices of one resource, served on a socket of their own in `directory`."""

    def __init__(
        self,
        resource: str,
        directory: Path,
        files: ContainerFiles,
        devices: tuple[OfferedDevice, ...],
    ) -> None:
        self.resource = resource
        self.endpoint = f"gpu-sim-{resource.replace('/', '-')}.sock"
        self.socket = directory / self.endpoint
        self._kubelet = directory / KUBELET_SOCKET
        self._files = files
        self._devices = devices
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    def offer(self, devices: tuple[OfferedDevice, ...]) -> None:
        """Change what is offered; the kubelet is told at once."""
        if devices == self._devices:
            return
        before = {device.id: device.healthy for device in self._devices}
        for device in devices:
            if before.get(device.id, True) != device.healthy:
                state = HEALTHY if device.healthy else UNHEALTHY
                logger.info("%s %s is %s", self.resource, device.id, state)
        self._devices = devices
        self._changed.set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Serve, anew if need be, and register with the kubelet.

        Raises:
            grpc.aio.AioRpcError: the kubelet does not take it.
            OSError, RuntimeError: there can be no socket.
        """
        await self.stop()
        self.socket.unlink(missing_ok=True)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self._handlers(),))
        server.add_insecure_port(f"unix://{self.socket}")
        await server.start()
        self._server = server
        async with grpc.aio.insecure_channel(f"unix://{self._kubelet}") as channel:
            register = channel.unary_unary(
                f"/{API_VERSION}.Registration/Register",
                request_serializer=api.RegisterRequest.SerializeToString,
                response_deserializer=api.Empty.FromString,
            )
            await register(
                api.RegisterRequest(
                    version=API_VERSION,
                    endpoint=self.endpoint,
                    resource_name=self.resource,
                    options=_options(),
                ),
                timeout=_REGISTER_SECONDS,
            )
        logger.info("%s: registered, %d devices", self.resource, len(self._devices))

    async def stop(self) -> None:
        """End the service; the kubelet takes its devices for gone after a while."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    # ---- what the kubelet calls --------------------------------------------------------------

    async def get_options(
        self, _request: api.Empty, _context: grpc.aio.ServicerContext
    ) -> api.DevicePluginOptions:
        """Return which of the optional calls are there."""
        return _options()

    async def list_and_watch(
        self, _request: api.Empty, _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[api.ListAndWatchResponse]:
        """Yield all devices now and after each change."""
        while True:
            changed = self._changed
            yield api.ListAndWatchResponse(
                devices=[
                    api.Device(ID=device.id, health=HEALTHY if device.healthy else UNHEALTHY)
                    for device in self._devices
                ]
            )
            await changed.wait()

    async def get_preferred_allocation(
        self, request: api.PreferredAllocationRequest, _context: grpc.aio.ServicerContext
    ) -> api.PreferredAllocationResponse:
        """Return the best choice of devices for each container."""
        return api.PreferredAllocationResponse(
            container_responses=[
                api.ContainerPreferredAllocationResponse(
                    deviceIDs=preferred(
                        wanted.available_deviceIDs,
                        wanted.must_include_deviceIDs,
                        wanted.allocation_size,
                    )
                )
                for wanted in request.container_requests
            ]
        )

    async def allocate(
        self, request: api.AllocateRequest, context: grpc.aio.ServicerContext
    ) -> api.AllocateResponse:
        """Return what each container gets; NOT_FOUND for a device that is not offered."""
        boards = {device.id: device.board for device in self._devices}
        response = api.AllocateResponse()
        for container in request.container_requests:
            for device in container.devices_ids:
                if device not in boards:
                    await context.abort(
                        grpc.StatusCode.NOT_FOUND, f"{self.resource} has no device {device}"
                    )
            setup = await asyncio.to_thread(
                self._files.setup, [boards[device] for device in container.devices_ids]
            )
            response.container_responses.append(
                api.ContainerAllocateResponse(
                    envs=setup.variables,
                    mounts=[
                        api.Mount(
                            container_path=mount.container_path,
                            host_path=mount.host_path,
                            read_only=mount.read_only,
                        )
                        for mount in setup.mounts
                    ],
                )
            )
        return response

    async def pre_start_container(
        self, _request: api.PreStartContainerRequest, _context: grpc.aio.ServicerContext
    ) -> api.PreStartContainerResponse:
        """Answer; the options say that the kubelet need not call this."""
        return api.PreStartContainerResponse()

    def _handlers(self) -> grpc.GenericRpcHandler:
        def unary(
            method: object, request: type[Message], response: type[Message]
        ) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(
                method, request.FromString, response.SerializeToString
            )

        return grpc.method_handlers_generic_handler(
            f"{API_VERSION}.DevicePlugin",
            {
                "GetDevicePluginOptions": unary(
                    self.get_options, api.Empty, api.DevicePluginOptions
                ),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                    self.list_and_watch,
                    api.Empty.FromString,
                    api.ListAndWatchResponse.SerializeToString,
                ),
                "GetPreferredAllocation": unary(
                    self.get_preferred_allocation,
                    api.PreferredAllocationRequest,
                    api.PreferredAllocationResponse,
                ),
                "Allocate": unary(self.allocate, api.AllocateRequest, api.AllocateResponse),
                "PreStartContainer": unary(
                    self.pre_start_container,
                    api.PreStartContainerRequest,
                    api.PreStartContainerResponse,
                ),
            },
        )


def _options() -> api.DevicePluginOptions:
    return api.DevicePluginOptions(get_preferred_allocation_available=True)
