"""The plug-in as a process: watches the GPUs and the kubelet, serves each resource."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

import grpc
import grpc.aio

from gpu_simulator.device_plugin.container import ContainerFiles
from gpu_simulator.device_plugin.inventory import Settings, offered, read_facts
from gpu_simulator.device_plugin.service import KUBELET_SOCKET, ResourceService
from gpu_simulator.state import Simulator, SimulatorError

logger = logging.getLogger("gpu_simulator.device_plugin")

FileIdentity = tuple[int, int, int]  # device, inode, time of change in nanoseconds


class DevicePlugin:
    """Offers the simulated GPUs of `state_path` to the kubelet of `directory`.

    Args:
        state_path: of the machine's state, by the path that the host has for it too.
        directory: the kubelet's folder of device plug-ins.
        settings: what is offered.

    Raises:
        SimulatorError: there is no state.
        BuildError, OSError: the files for containers can't be made.
    """

    def __init__(self, state_path: Path, directory: Path, settings: Settings) -> None:
        self._state_path = state_path
        self._directory = directory
        self._settings = settings
        self._simulator = Simulator(state_path)
        self._state_inode = _inode(state_path)
        self._files = ContainerFiles(state_path)
        self._kubelet: FileIdentity | None = None
        self._services: dict[str, ResourceService] = {}
        self._unregistered: set[str] = set()
        self._complaint = ""

    async def run(self, stop: asyncio.Event, poll_seconds: float) -> None:
        """Serve until `stop` is set, looking at GPUs and kubelet each `poll_seconds`."""
        try:
            while not stop.is_set():
                await self.look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), poll_seconds)
        finally:
            for service in self._services.values():
                await service.stop()
                service.socket.unlink(missing_ok=True)

    async def look(self) -> None:
        """Look at the GPUs and at the kubelet once; do what has become necessary."""
        self._look_at_gpus()
        kubelet = _identity(self._directory / KUBELET_SOCKET)
        if kubelet != self._kubelet:
            # A kubelet that starts clears the folder and knows no plug-in.
            self._kubelet = kubelet
            self._unregistered = set(self._services)
        if kubelet is None:
            self._complain(f"no kubelet at {self._directory / KUBELET_SOCKET} yet")
            return
        for name, service in self._services.items():
            if name in self._unregistered or not service.socket.exists():
                await self._register(name, service)

    def _look_at_gpus(self) -> None:
        inode = _inode(self._state_path)
        if inode is not None and inode != self._state_inode:
            try:
                self._simulator = Simulator(self._state_path)
            except SimulatorError as error:
                self._complain(str(error))
                return
            self._state_inode = inode
            logger.info("the machine was made anew")
        devices = offered(read_facts(self._simulator), self._settings)
        for resource, service in self._services.items():
            service.offer(devices.get(resource, ()))
        for resource in devices.keys() - self._services.keys():
            self._services[resource] = ResourceService(
                resource, self._directory, self._files, devices[resource]
            )
            self._unregistered.add(resource)

    async def _register(self, name: str, service: ResourceService) -> None:
        try:
            await service.start()
        except grpc.aio.AioRpcError as error:
            self._unregistered.add(name)
            self._complain(f"the kubelet does not take {name}: {error.details()}")
        except (OSError, RuntimeError) as error:  # gRPC has no error of its own for a failed bind
            self._unregistered.add(name)
            self._complain(f"{name} can't be served at {service.socket}: {error}")
        else:
            self._unregistered.discard(name)
            self._complaint = ""

    def _complain(self, text: str) -> None:
        """Log what keeps the plug-in from its work, once."""
        if text != self._complaint:
            logger.warning("%s", text)
        self._complaint = text


def _identity(path: Path) -> FileIdentity | None:
    """Tell a file from one made anew in its place (the inode alone may be used again)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _inode(path: Path) -> tuple[int, int] | None:
    """Tell a state from one made anew; the old one is open here, so its inode stays taken."""
    identity = _identity(path)
    return identity and identity[:2]


async def _serve(plugin: DevicePlugin, poll_seconds: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await plugin.run(stop, poll_seconds)


def serve(state_path: Path, directory: Path, settings: Settings, poll_seconds: float) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SimulatorError, BuildError, OSError: as `DevicePlugin`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(DevicePlugin(state_path, directory, settings), poll_seconds))
