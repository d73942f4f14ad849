"""The kubelet's side of the device plugin API v1beta1, for tests of plug-ins.

It does what a kubelet does with a plug-in: clears the folder when it starts, serves Registration,
calls back on the plug-in's own socket and keeps the list that it streams.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from gpu_simulator.device_plugin.proto import deviceplugin_pb2 as api

T = TypeVar("T")


class PluginKubelet:
    """A kubelet in a thread of its own; `devices` maps resource to id to health.

    Args:
        directory: the folder of plug-ins; short, it holds sockets.
        refuse: answer registrations with an error, as for an unknown version.
        clears_folder: remove the plug-ins' sockets at the start, as most kubelets do.
    """

    def __init__(
        self, directory: Path, *, refuse: bool = False, clears_folder: bool = True
    ) -> None:
        self.directory = directory
        self.clears_folder = clears_folder
        self.refuse = refuse
        self.registrations: list[tuple[str, str]] = []  # resource, API version
        self.devices: dict[str, dict[str, str]] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> PluginKubelet:
        for stale in self.directory.glob("*.sock" if self.clears_folder else "kubelet.sock"):
            stale.unlink()
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- what a pod's admission does -----------------------------------------------------------

    def options(self, resource: str) -> api.DevicePluginOptions:
        """Ask which optional calls there are."""
        return self._ask(resource, "GetDevicePluginOptions", api.Empty(), api.DevicePluginOptions)

    def preferred(
        self, resource: str, available: Sequence[str], size: int, must: Sequence[str] = ()
    ) -> list[str]:
        """Ask for the best `size` of `available`."""
        request = api.PreferredAllocationRequest(
            container_requests=[
                api.ContainerPreferredAllocationRequest(
                    available_deviceIDs=available,
                    must_include_deviceIDs=must,
                    allocation_size=size,
                )
            ]
        )
        answer = self._ask(
            resource, "GetPreferredAllocation", request, api.PreferredAllocationResponse
        )
        return list(answer.container_responses[0].deviceIDs)

    def allocate(self, resource: str, ids: Sequence[str]) -> api.ContainerAllocateResponse:
        """Allocate `ids` to one container."""
        request = api.AllocateRequest(
            container_requests=[api.ContainerAllocateRequest(devices_ids=ids)]
        )
        answer = self._ask(resource, "Allocate", request, api.AllocateResponse)
        return answer.container_responses[0]

    # ---- inside --------------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _ask(self, resource: str, method: str, request: Any, response: Any) -> Any:
        async def ask() -> Any:
            call = self._channels[resource].unary_unary(
                f"/v1beta1.DevicePlugin/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            return await call(request, timeout=30)

        return self._call(ask())

    async def _start(self) -> None:
        self._server = grpc.aio.server()
        register = grpc.unary_unary_rpc_method_handler(
            self._register, api.RegisterRequest.FromString, api.Empty.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": register}),)
        )
        self._server.add_insecure_port(f"unix://{self.directory / 'kubelet.sock'}")
        await self._server.start()

    async def _stop(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
        await self._server.stop(None)

    async def _register(self, request: api.RegisterRequest, context: Any) -> api.Empty:
        self.registrations.append((request.resource_name, request.version))
        if self.refuse:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such version")
        channel = grpc.aio.insecure_channel(f"unix://{self.directory / request.endpoint}")
        self._channels[request.resource_name] = channel
        self._watches.append(asyncio.create_task(self._watch(request.resource_name, channel)))
        return api.Empty()

    async def _watch(self, resource: str, channel: grpc.aio.Channel) -> None:
        call = channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch",
            request_serializer=api.Empty.SerializeToString,
            response_deserializer=api.ListAndWatchResponse.FromString,
        )
        try:
            async for answer in call(api.Empty()):
                self.devices[resource] = {device.ID: device.health for device in answer.devices}
        except grpc.aio.AioRpcError:
            # The plug-in has ended: what it offered can't be given to pods any more.
            self.devices.pop(resource, None)
