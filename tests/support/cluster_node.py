"""A node of a cluster: simulated GPUs, a kubelet and an API server to ask, an agent over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import re
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.agent_process import Machine
from tests.support.api_server_double import NODE, ApiServerDouble, pod_manifest
from tests.support.eventually import eventually
from tests.support.fake_kubelet import FakeKubelet
from tests.support.tls_server import certificate_for, new_authority
from zeus_operator.trust.certificates import Authority, key_pem_of, pem_of
from zeus_runtime.agent_client import AgentClient, AgentError

T = TypeVar("T")

SERVER_NAME = "localhost"
OPERATOR = "zeus-system:zeus-operator"

_numbers = itertools.count()


def fresh(role: str) -> str:
    """Return a pod's name that no other has had: the agent waits where a name comes again."""
    return f"{role}-{next(_numbers)}"


@dataclass
class Pod:
    """A pod of the node, with what the kubelet mounts into it."""

    node: ClusterNode
    manifest: dict[str, Any]
    token_file: Path
    clients: list[AgentClient] = field(default_factory=list)

    @property
    def uid(self) -> str:
        """Its UID."""
        return str(self.manifest["metadata"]["uid"])

    @property
    def token(self) -> str:
        """Its token."""
        return self.token_file.read_text()

    @property
    def environment(self) -> dict[str, str]:
        """What its containers are given."""
        return {"ZEUS_AGENT_CA": self.node.ca, "ZEUS_AGENT_TOKEN_FILE": str(self.token_file)}

    def client(self) -> AgentClient:
        """Return a client as the pod's process has it; it keeps one connection."""
        made = AgentClient(self.node.url, timeout_seconds=30.0, environ=self.environment)
        self.clients.append(made)
        return made

    def delete(self) -> None:
        """Have the API server and then the kubelet forget the pod."""
        about = self.manifest["metadata"]
        self.node.run(self.node.api.delete(self.manifest))
        self.node.kubelet.take(about["namespace"], about["name"])


def refusal(call: Callable[..., object], *arguments: object) -> tuple[int, str]:
    """Make a call that the agent refuses; return the status and the code."""
    with pytest.raises(AgentError) as refused:
        call(*arguments)
    return refused.value.status, refused.value.code


@contextlib.contextmanager
def cluster_node(models: Sequence[str] = ("V100", "A40")) -> Iterator[ClusterNode]:
    """Have a node whose agent is not started yet."""
    # Not under pytest's folder: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        made = ClusterNode(Path(folder), models)
        try:
            yield made
        finally:
            made.close()


class ClusterNode(Machine):
    """A machine whose agent pods call."""

    def __init__(self, folder: Path, models: Sequence[str] = ("V100", "A40")) -> None:
        super().__init__(folder, models)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.resources = folder / "pod-resources"
        self.resources.mkdir()
        self.api = self.run(self._make(ApiServerDouble))
        self.kubelet = self.run(self._make(lambda: FakeKubelet(self.resources)))
        self.run(self.api.come_back())
        self.run(self.kubelet.start())
        self.authority = new_authority()
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.show_certificate(self.authority)
        self.pods: list[Pod] = []
        self.url = ""
        self.probes = ""
        self.asks_from = (
            "127.0.0.1"  # as each pod has, those who attack have addresses of their own
        )
        self._ports = {"listen": "0", "address": "0"}  # an agent started again keeps them

    @property
    def ca(self) -> str:
        """What pods trust, PEM."""
        return str(self.authority.pem)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop of the kubelet and the API server."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def show_certificate(self, authority: Authority, *names: str) -> None:
        """Replace the agent's certificate: first the key and then the certificate, each at once."""
        leaf = certificate_for(authority, *(names or (SERVER_NAME,)))
        for path, text in (
            (self.key, key_pem_of(leaf.key)),
            (self.certificate, pem_of(leaf.certificate)),
        ):
            temporary = path.with_suffix(".new")
            temporary.write_text(text)
            temporary.replace(path)

    def start_agent(
        self, *options: str, without_driver: bool = False, is_ready: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start the agent on all its listeners, and wait until it is ready, if it is to be."""
        agent = super().start_agent(
            *("--listen", f"127.0.0.1:{self._ports['listen']}"),
            *("--tls-cert", str(self.certificate)),
            *("--tls-key", str(self.key), "--node-name", NODE),
            *("--pod-resources", str(self.resources), "--kube-api", self.api.address.url),
            *("--metrics-listen", f"127.0.0.1:{self._ports['address']}"),
            *("--operator-account", OPERATOR),
            *options,
            without_driver=without_driver,
        )
        ports = self._ports
        for name in ports:
            ports[name] = re.findall(rf" {name}=127\.0\.0\.1:(\d+)", self.log())[-1]
        self.url = f"https://{SERVER_NAME}:{ports['listen']}"
        self.probes = f"127.0.0.1:{ports['address']}"
        if is_ready:
            eventually(lambda: self.probe("/readyz")[0] == 200, "the agent is ready")
        return agent

    def pod(self, name: str, *gpus: str, namespace: str = "team", **manifest: Any) -> Pod:
        """Run a pod that was given devices, by their ids, before its containers started."""
        made = pod_manifest(namespace, name, **manifest)
        self.kubelet.give(namespace, name, {"nvidia.com/gpu": list(gpus)})
        self.run(self.api.add(made))
        token_file = self.folder / f"token-{namespace}-{name}"
        token_file.write_text(self.api.issue(made))
        pod = Pod(self, made, token_file)
        self.pods.append(pod)
        return pod

    def delete_pods(self) -> None:
        """Delete all pods."""
        for pod in self.pods:
            for client in pod.clients:
                client.close()
            pod.delete()
        self.pods.clear()

    def operator_token(self) -> str:
        """Return a token of the operator, whose pod runs elsewhere."""
        namespace, name = OPERATOR.split(":")
        elsewhere = pod_manifest(namespace, "zeus-operator-0", node="node-2")
        self.run(self.api.add(elsewhere))
        return self.api.issue(elsewhere, account=name)

    def probe(self, path: str) -> tuple[int, bytes]:
        """Ask the listener for probes."""
        connection = http.client.HTTPConnection(self.probes, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def shown(self) -> str:
        """Return what Prometheus gets."""
        return self.probe("/metrics")[1].decode()

    def previous_watts(self, uuid: str) -> float:
        """Return the limit that is on disk to be put back."""
        entry = json.loads((self.state_dir / "saved" / f"{uuid}.json").read_text())
        return float(entry["previous_milliwatts"]) / 1000.0

    def connect(self) -> http.client.HTTPSConnection:
        """Return a connection over TLS."""
        context = ssl.create_default_context(cadata=self.ca)
        port = int(self.url.rpartition(":")[2])
        return http.client.HTTPSConnection(
            SERVER_NAME,
            port,
            timeout=60,
            context=context,
            source_address=(self.asks_from, 0),
        )

    def ask(
        self,
        method: str,
        path: str,
        token: str | None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Make one request over TLS, as any program would; return status and JSON."""
        connection = self.connect()
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        try:
            connection.request(method, path, body=data, headers=sent)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def close(self) -> None:
        """End everything."""
        for pod in self.pods:
            for client in pod.clients:
                client.close()
        super().close()
        self.run(self.kubelet.stop())
        self.run(self.api.go_away())
        self.run(self._end_what_hangs())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @staticmethod
    async def _end_what_hangs() -> None:
        """End the answers that a test has let hang."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @staticmethod
    async def _make(kind: Any) -> Any:
        """Make what belongs to the loop in it."""
        return kind()
