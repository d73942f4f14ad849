"""An admission webhook that refuses every Job of a namespace, as a real cluster may have one."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.cluster.support.api import Api, ApiFailure, Object
from tests.cluster.support.pki import Authority, base64_of
from tests.support.eventually import eventually

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@contextlib.contextmanager
def refused_jobs(
    api: Api, namespace: str, code: int, message: str, directory: Path
) -> Iterator[None]:
    """Let the API server answer `code` and `message` to each new Job of `namespace`.

    Args:
        directory: takes the keys of the webhook.
    """
    authority = Authority(directory)
    certificate, key = authority.sign("webhook", "/CN=webhook", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler({"code": code, "message": message}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    name = f"refuses-{namespace}"
    api.post(
        CONFIGURATIONS,
        {
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": "refuses.jobs.test",
                    "clientConfig": {
                        "url": f"https://127.0.0.1:{server.server_port}/",
                        "caBundle": base64_of(authority.certificate),
                    },
                    "rules": [
                        {
                            "apiGroups": ["batch"],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["jobs"],
                        }
                    ],
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": namespace}
                    },
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                }
            ],
        },
    )
    try:
        eventually(lambda: _refuses(api, namespace, message), "the webhook is asked")
        yield
    finally:
        api.delete(f"{CONFIGURATIONS}/{name}")
        server.shutdown()
        server.server_close()


def _refuses(api: Api, namespace: str, message: str) -> bool:
    """Whether a Job is refused so; one that is not is removed again."""
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    pod = {"restartPolicy": "Never", "containers": [{"name": "probe", "image": "example.org/p:1"}]}
    probe: Object = {
        "metadata": {"name": "probe"},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    try:
        api.post(path, probe)
    except ApiFailure as failure:
        return message in str(failure)
    api.delete(f"{path}/probe")
    return False


def _handler(status: Object) -> type[BaseHTTPRequestHandler]:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            review = json.loads(self.rfile.read(size))
            answer = {"uid": review["request"]["uid"], "allowed": False, "status": status}
            body = json.dumps(
                {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: what it was asked shows in the answers."""

    return Refusing
