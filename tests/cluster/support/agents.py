"""An agent beside the simulated node: what the operator reads of it, at an address of its own."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

from tests.cluster.support.api import Api
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT
from tests.support.agent_reports import ReportServer, report_body
from tests.support.eventually import eventually
from zeus_runtime.protocol import AGENT_AUDIENCE, Result

SERVICE = "zeus-agent"
SLICE = "zeus-agent-1"


class AgentOfTheNode:
    """Serves with the certificate that the operator has issued, once that is there.

    Args:
        node: whose agent it is.
        folder: takes the certificate and the operator's token.
    """

    def __init__(
        self, api: Api, namespace: str, folder: Path, *, node: str = "simulated-node"
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._folder = folder
        self._node = node
        self._server: ReportServer | None = None
        self.token_file = folder / "operator-token"
        self.token_file.write_text(self._token())

    @property
    def service(self) -> str:
        """The setting that names it."""
        return f"{SERVICE}.{self._namespace}"

    @property
    def settings(self) -> dict[str, str]:
        """What an operator has to be told."""
        return {
            "agent_service": self.service,
            "agent_token_file": str(self.token_file),
            "agent_trust_seconds": "1",
            "agent_reports_seconds": "1",
        }

    @property
    def server(self) -> ReportServer:
        assert self._server is not None, "not started"
        return self._server

    def start(self) -> AgentOfTheNode:
        """Serve, and let the API server say where."""
        self.announce(self.serve())
        return self

    def serve(self, port: int = 0) -> int:
        """Serve and return the port."""
        certificate, key = self.certificate()
        token = self.token_file.read_text()
        self._server = ReportServer(certificate, key, token, host="0.0.0.0", port=port)
        self._server.__enter__()
        return self._server.port

    def announce(self, port: int) -> None:
        """Make the EndpointSlice that the controller of a cluster makes of the Service."""
        self._api.post(
            f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices",
            {
                "metadata": {"name": SLICE, "labels": {"kubernetes.io/service-name": SERVICE}},
                "addressType": "IPv4",
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
                "endpoints": [
                    {
                        "addresses": [own_address()],
                        "nodeName": self._node,
                        "conditions": {"ready": True},
                    }
                ],
            },
        )

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def hear(self, pod_uid: str, result: Result) -> None:
        """Take a report, as from the runtime in that pod."""
        self.server.reports[pod_uid] = report_body(pod_uid, result)

    def wait_until_asked(self, times: int) -> None:
        """Wait until so many more questions have come."""
        wanted = len(self.server.asked) + times
        eventually(lambda: len(self.server.asked) >= wanted, f"the agent is asked {times} times")

    def certificate(self) -> tuple[Path, Path]:
        """Return certificate and key as the agent mounts them, once they are issued."""
        path = f"/api/v1/namespaces/{self._namespace}/secrets/zeus-agent-tls"
        found: dict[str, Any] = eventually(
            lambda: self._api.find(path) or {}, "the certificate is issued"
        )
        files = []
        for name in ("tls.crt", "tls.key"):
            files.append(self._folder / name)
            files[-1].write_bytes(base64.b64decode(found["data"][name]))
        return files[0], files[1]

    def _token(self) -> str:
        """Return the operator's token for the agents, as the kubelet projects it."""
        answer = self._api.post(
            f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/serviceaccounts/{SERVICE_ACCOUNT}/token",
            {"spec": {"audiences": [AGENT_AUDIENCE], "expirationSeconds": 3600}},
        )
        return str(answer["status"]["token"])


def own_address() -> str:
    """Return an address of this machine that an EndpointSlice may name: loopback ones it may not.

    Nothing is sent: the socket only asks the kernel which address it would use.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("203.0.113.1", 9))
        except OSError as error:
            raise AssertionError(
                "tests of the agents' reports need a network interface besides loopback"
            ) from error
        return str(asking.getsockname()[0])
