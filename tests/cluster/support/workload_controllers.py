"""The controllers of JobSets, PyTorchJobs and TrainJobs, as their projects publish them.

Each is built from its Go module, whose definitions and webhooks are installed as they lie there.
The webhooks are asked at an address of this machine, under a certificate of the control plane's own
authority.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.support.binaries import MODULES, BinariesUnavailable, build_programs
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.pki import base64_of
from tests.cluster.support.processes import end, free_ports, spawn
from tests.support.eventually import eventually

Object = dict[str, Any]


@dataclass(frozen=True)
class Controller:
    """A controller and what belongs to it.

    Args:
        name: of its folder in `binaries`.
        module: that has all of it.
        definitions: pattern of the files with its CustomResourceDefinitions.
        webhooks: file of its webhooks.
        resources: whose webhooks are installed.
    """

    name: str
    module: str
    definitions: str
    webhooks: str
    resources: tuple[str, ...]


JOBSET = Controller(
    "jobset",
    "sigs.k8s.io/jobset",
    "config/components/crd/bases/*.yaml",
    "config/components/webhook/manifests.yaml",
    ("jobsets",),
)
TRAINING_OPERATOR = Controller(
    "training-operator",
    "github.com/kubeflow/training-operator",
    "manifests/base/crds/kubeflow.org_pytorchjobs.yaml",
    "manifests/base/webhook/manifests.yaml",
    ("pytorchjobs",),
)
TRAINER = Controller(
    "trainer",
    "github.com/kubeflow/trainer/v2",
    "manifests/base/crds/trainer.kubeflow.org_*.yaml",
    "manifests/base/webhook/manifests.yaml",
    ("trainjobs", "trainingruntimes", "clustertrainingruntimes"),
)
CONTROLLERS = (JOBSET, TRAINING_OPERATOR, TRAINER)


def program_of(controller: Controller) -> Path:
    """Return the controller's program, built if it was not before (a minute, once)."""
    folder = MODULES / controller.name
    # What is built is known by the module's lock and the flags; of the source, this tag tells.
    source = hashlib.sha256((folder / "main.go").read_bytes()).hexdigest()[:12]
    programs = {controller.name: f"zeus-operator.test/{controller.name}"}
    return build_programs(folder, programs, tags=f"main_{source}") / controller.name


def source_of(controller: Controller) -> Path:
    """Return the folder of the controller's module in Go's cache.

    Raises:
        BinariesUnavailable: Go does not have it and can't fetch it.
    """
    lock = (MODULES / controller.name / "go.mod").read_text()
    found = re.search(rf"^\s*{re.escape(controller.module)} (v\S+)$", lock, re.MULTILINE)
    assert found is not None, f"{controller.name} does not require {controller.module}"
    asked = subprocess.run(
        ["go", "mod", "download", "-json", f"{controller.module}@{found.group(1)}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        raise BinariesUnavailable(f"{controller.module}: {asked.stdout or asked.stderr}")
    return Path(json.loads(asked.stdout)["Dir"])


def define(plane: ControlPlane, controller: Controller) -> None:
    """Install the definitions of a controller, and wait until they are served."""
    for file in sorted(source_of(controller).glob(controller.definitions)):
        # By the server: they are too long for the annotation of a plain apply.
        plane.kubectl("apply", "--server-side", "-f", str(file))
        for each in yaml.safe_load_all(file.read_text()):
            name = f"crd/{each['metadata']['name']}"
            plane.kubectl("wait", "--for=condition=Established", name)


class WorkloadControllers:
    """The controllers beside a control plane.  A context manager.

    Args:
        directory: takes their logs and keys.
        address: of this machine, by which the API server reaches the webhooks.
        init_container: template of the container in which a PyTorchJob's Workers wait for their
            Master, as the training-operator takes it; its own if not given.
    """

    def __init__(
        self,
        plane: ControlPlane,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        init_container: str = "",
    ) -> None:
        self._plane = plane
        self._directory = directory
        self._address = address
        self._init_container = init_container
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> WorkloadControllers:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            for controller in CONTROLLERS:
                define(self._plane, controller)
            for controller, port in zip(CONTROLLERS, free_ports(len(CONTROLLERS)), strict=True):
                self._start(controller, port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes.values():
            end(process, kill=True)

    def log(self, name: str) -> str:
        """Return what the controller in the folder `name` has said."""
        return (self._directory / f"{name}.log").read_text(errors="replace")

    def said_of(self, words: str) -> dict[str, list[str]]:
        """Return the lines with `words` of each controller's log, by its name."""
        return {
            name: [line for line in self.log(name).splitlines() if words in line]
            for name in self._processes
        }

    def _start(self, controller: Controller, port: int) -> None:
        name = controller.name
        certificate, key = self._plane.authority.sign(
            f"{name}-webhooks", f"/CN={name}", f"IP:{self._address}"
        )
        keys = self._directory / f"{name}-keys"
        keys.mkdir()
        shutil.copy(certificate, keys / "tls.crt")
        shutil.copy(key, keys / "tls.key")
        where = ("-webhook-host", self._address, "-webhook-port", str(port))
        self._processes[name] = spawn(
            [program_of(controller), *where, "-certificates", keys, *self._more(controller)],
            self._directory / f"{name}.log",
            env={
                "KUBECONFIG": str(self._plane.kubeconfig),
                "HOME": str(self._directory),
                "PATH": "/usr/bin:/bin",
            },
            cwd=self._directory,
        )
        eventually(lambda: self._listens(name, port), f"the webhooks of {name} are served")
        file = source_of(controller) / controller.webhooks
        for document in yaml.safe_load_all(file.read_text()):
            made = self._webhooks(controller, document, port)
            if made["webhooks"]:
                self._plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(made))

    def _more(self, controller: Controller) -> list[str | Path]:
        """Return more arguments of a controller."""
        if controller is not TRAINING_OPERATOR or not self._init_container:
            return []
        file = self._directory / "init-container.yaml"
        file.write_text(self._init_container)
        return ["-init-container", file]

    def _webhooks(self, controller: Controller, document: Object, port: int) -> Object:
        """Return a configuration with the webhooks that are wanted, asked at our address."""
        bundle = base64_of(self._plane.authority.certificate)
        wanted = []
        for each in document["webhooks"]:
            resources = {name for rule in each["rules"] for name in rule["resources"]}
            if resources <= set(controller.resources):
                path = each["clientConfig"]["service"]["path"]
                client = {"url": f"https://{self._address}:{port}{path}", "caBundle": bundle}
                wanted.append({**each, "clientConfig": client})
        metadata = {"name": f"{controller.name}-{document['metadata']['name']}"}
        return {**document, "metadata": metadata, "webhooks": wanted}

    def _listens(self, name: str, port: int) -> bool:
        code = self._processes[name].poll()
        assert code is None, f"{name} has ended with {code}:\n{self.log(name)[-3000:]}"
        try:
            socket.create_connection((self._address, port), timeout=1).close()
        except OSError:
            return False
        return True


def suspended(kind: str, value: bool) -> Mapping[str, Any]:
    """Return the patch by which a queue holds a child back, or lets it go."""
    held: Object = {"suspend": value}
    return {"spec": {"runPolicy": held} if kind == "PyTorchJob" else held}
