"""What `helm test` checks, from within the cluster; it changes nothing.

Every replica of the operator is ready and one leads; the API server takes a right ZeusJob and, with
the admission policy, refuses a wrong one (both as a dry run).
"""

import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "60"))
NAMESPACE = os.environ["NAMESPACE"]
HOST = os.environ.get("HOST", f"zeus-operator.{NAMESPACE}.svc")
PORT = int(os.environ["PORT"])
REPLICAS = int(os.environ["REPLICAS"])
HAS_POLICY = os.environ["HAS_POLICY"] == "true"
WRONG = "backoffLimit"


def operator():
    """Return what is wrong with the replicas; "" if nothing is."""
    try:
        found = socket.getaddrinfo(HOST, PORT, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{HOST} has no address: {error}"
    addresses = sorted({each[4][0] for each in found})
    if len(addresses) != REPLICAS:
        return f"{len(addresses)} of {REPLICAS} replicas run: {', '.join(addresses)}"
    leaders = 0
    for address in addresses:
        shown = f"[{address}]" if ":" in address else address
        status, text = answer(f"http://{shown}:{PORT}/readyz")
        if status != 200:
            return f"the replica {address} is not ready ({status}): {text}"
        status, text = answer(f"http://{shown}:{PORT}/metrics")
        leaders += bool(re.search(r"^zeus_operator_leader 1(\.0)?$", text, re.MULTILINE))
    return "" if leaders == 1 else f"{leaders} of {REPLICAS} replicas lead, and one should"


def api_server():
    """Return what is wrong with how the API server takes ZeusJobs; "" if nothing is."""
    status, text = dry_run({})
    if status != 201:
        return f"a right ZeusJob is refused ({status}): {text}"
    if HAS_POLICY:
        status, text = dry_run({WRONG: 3})
        if status != 422 or WRONG not in text:
            return f"a wrong ZeusJob is not refused by the admission policy ({status}): {text}"
    return ""


def dry_run(more):
    """POST a ZeusJob that is not stored; `more` is of its Job's spec."""
    container = {"name": "train", "image": "registry.example/train", "command": ["true"]}
    job = {"template": {"spec": {"containers": [container]}}, **more}
    body = {
        "apiVersion": "zeus.energy/v1alpha1",
        "kind": "ZeusJob",
        "metadata": {"name": "helm-test", "namespace": NAMESPACE},
        "spec": {
            "suspend": True,
            "objective": {"metric": {"target": "0.5", "mode": "Max"}, "maxEpochs": 1},
            "batchSize": {"default": 1, "choices": [1, 2]},
            "workload": {"apiVersion": "batch/v1", "kind": "Job", "template": {"spec": job}},
        },
    }
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    shown = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(
        f"https://{shown}:{port}/apis/zeus.energy/v1alpha1/namespaces/{NAMESPACE}/zeusjobs"
        "?dryRun=All",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/json",
        },
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # CAs of older clusters lack extensions
    return answer(request, trust)


def answer(request, trust=None):
    """Return status and text; status 0: nobody answers."""
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def main():
    """Check until all is well, or the patience is over; return the exit code."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for check in (operator, api_server):
        while problem := check():
            if time.monotonic() >= deadline:
                print(f"{check.__name__}: {problem}", file=sys.stderr)
                return 1
            time.sleep(2)  # a pod of its own, which only waits
        print(f"{check.__name__}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
