"""Containers of built images, run by runc as a kubelet would have them run: read-only, no rights.

buildah mounts the file system of an image, and runc runs it by an OCI configuration of ours.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.images.buildah import Buildah

NEEDED = ("buildah", "debootstrap", "runc")
END_SECONDS = 120.0
_numbers = itertools.count(1)


def what_is_missing() -> str:
    """Return what this machine lacks to build and run images; empty: nothing."""
    if os.geteuid() != 0:
        return "images are built and run by root"
    missing = [program for program in NEEDED if shutil.which(program) is None]
    return f"images need {', '.join(missing)}: apt install {' '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine in a container."""

    source: Path
    destination: str
    writable: bool = False


@dataclass(frozen=True)
class Image:
    """An image whose file system is mounted.

    Attributes:
        root: the file system.
        configuration: the image's own, as OCI has it.
    """

    root: Path
    configuration: Mapping[str, Any]

    @property
    def user(self) -> tuple[int, int]:
        uid, _, gid = str(self.configuration.get("User", "0:0")).partition(":")
        return int(uid), int(gid or uid)

    @property
    def labels(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.configuration.get("Labels", {})
        return found


@contextlib.contextmanager
def mounted(buildah: Buildah, name: str) -> Iterator[Image]:
    """Mount the image of that name for a while."""
    container = buildah.run("from", "--pull-never", name)
    try:
        root = Path(buildah.run("mount", container))
        yield Image(root, buildah.configuration(name))
    finally:
        buildah.run("rm", container)


@dataclass(frozen=True)
class Done:
    """How a container ended."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Container:
    """What a pod says of a container.

    Attributes:
        command: in place of the image's entry point, as in a pod.
        arguments: in place of the image's command, as in a pod.
        user: in place of the image's.
        capabilities: of root; none are there by default.
        sees_machine: its processes and the machine's see each other, as with `--pid=host`.
    """

    image: Image
    command: Sequence[str] | None = None
    arguments: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    user: int | None = None
    capabilities: Sequence[str] = ()
    sees_machine: bool = False

    @property
    def process(self) -> list[str]:
        """What runs in it, by the rules of Kubernetes."""
        of_image = self.image.configuration
        if self.command is not None:
            return [*self.command, *(self.arguments or ())]
        arguments = of_image.get("Cmd") or () if self.arguments is None else self.arguments
        return [*(of_image.get("Entrypoint") or ()), *arguments]


class Runc:
    """Runs containers.

    Args:
        folder: of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "runc"

    def run(self, container: Container) -> Done:
        """Run until it ends by itself."""
        with self.started(container) as running:
            return running.wait()

    @contextlib.contextmanager
    def started(self, container: Container) -> Iterator[Running]:
        """Run for a while; it is killed afterwards if it still runs."""
        name = f"zeus-image-test-{os.getpid()}-{next(_numbers)}"
        bundle = self._folder / name
        bundle.mkdir()
        subprocess.run(["runc", "spec", f"--bundle={bundle}"], check=True)
        file = bundle / "config.json"
        file.write_text(json.dumps(_configuration(json.loads(file.read_text()), container)))
        command = ["runc", f"--root={self._state}"]
        with (bundle / "out").open("wb") as out, (bundle / "err").open("wb") as errors:
            process = subprocess.Popen(
                [*command, "run", f"--bundle={bundle}", name],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        running = Running(process, [*command, "kill", name], bundle)
        try:
            yield running
        finally:
            if process.poll() is None:
                running.send(signal.SIGKILL)
            process.wait(END_SECONDS)
            subprocess.run([*command, "delete", "--force", name], capture_output=True, check=False)


@dataclass(frozen=True)
class Running:
    """A container that has been started."""

    _process: subprocess.Popen[bytes]
    _kill: Sequence[str]
    _bundle: Path

    @property
    def output(self) -> str:
        return (self._bundle / "out").read_text()

    @property
    def errors(self) -> str:
        return (self._bundle / "err").read_text()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its first process."""
        subprocess.run([*self._kill, number.name], capture_output=True, check=False)

    def wait(self) -> Done:
        """Wait for its end."""
        code = self._process.wait(END_SECONDS)
        return Done(code, self.output, self.errors)


def _configuration(made: dict[str, Any], container: Container) -> dict[str, Any]:
    """Return runc's own proposal with a read-only root, no new rights and the machine's network."""
    image = container.image
    uid, gid = image.user if container.user is None else (container.user, container.user)
    variables = dict(each.split("=", 1) for each in image.configuration["Env"])
    variables |= container.environment
    capabilities = list(container.capabilities)
    made["root"] = {"path": str(image.root), "readonly": True}
    made["process"] |= {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": container.process,
        "env": [f"{name}={value}" for name, value in variables.items()],
        "cwd": str(image.configuration.get("WorkingDir") or "/"),
        "noNewPrivileges": True,
        "capabilities": dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable"), capabilities
        ),
    }
    made["mounts"] += [
        {
            "destination": mount.destination,
            "type": "bind",
            "source": str(mount.source),
            "options": ["rbind", "rw" if mount.writable else "ro"],
        }
        for mount in container.mounts
    ]
    shared = {"network", "pid"} if container.sees_machine else {"network"}
    made["linux"]["namespaces"] = [
        each for each in made["linux"]["namespaces"] if each["type"] not in shared
    ]
    return made
