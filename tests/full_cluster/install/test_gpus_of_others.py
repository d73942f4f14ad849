"""A pod that asks the agent of its node for a GPU that is not its own is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.full_cluster.install.conftest import MakeTeam
from tests.full_cluster.install.digits import EXAMPLE_IMAGE, Team
from tests.full_cluster.install.release import DEFAULT_LIMIT_WATTS, NAMESPACE, Release
from tests.full_cluster.node import Node
from tests.full_cluster.pods import Object, await_phase, log_of
from tests.support.eventually import eventually

WISH_WATTS = 150
FOLDER = "/var/run/secrets/zeus.energy"
# As docs/how-to/power-limits-for-any-pod.md does it; what the agent answers goes into the log.
CLIENT = f"""
import http.client, json, os, ssl
from pathlib import Path

trust = ssl.create_default_context(cafile="{FOLDER}/ca.crt")
agent = http.client.HTTPSConnection("zeus-agent.{NAMESPACE}.svc", 8443, timeout=10, context=trust)
proof = "Bearer " + Path("{FOLDER}/agent-token").read_text().strip()
own = os.environ["NVIDIA_VISIBLE_DEVICES"]
session = "/v1/sessions/main"
limit = session + "/gpus/%s/power-limit"
wish = {{"power_limit_watts": {WISH_WATTS}}}
for name, path, body in (
    ("session", session, {{"ends_with_connection": True}}),
    *((gpu, limit % gpu, wish) for gpu in os.environ["GPUS"].split(",")),
):
    agent.request("PUT", path, json.dumps(body), {{"Authorization": proof}})
    answer = agent.getresponse()
    said = json.loads(answer.read())
    print(json.dumps({{"of": name, "own": name == own, "status": answer.status, "said": said}}))
print("done", flush=True)
"""


def ask_for(team: Team, node: Node, gpus: Sequence[str]) -> Object:
    """Run a pod with one GPU of the node that asks for each of `gpus`, then waits."""
    secured = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    token = {"audience": "zeus-agent", "path": "agent-token", "expirationSeconds": 3600}
    trust = {"name": "zeus-agent-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    sources = [{"serviceAccountToken": token}, {"configMap": trust}]
    container = {
        "name": "main",
        "image": EXAMPLE_IMAGE,
        "command": ["python", "-c", f"{CLIENT}\nimport time; time.sleep(3600)"],
        "env": [{"name": "GPUS", "value": ",".join(gpus)}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "securityContext": secured,
        "volumeMounts": [{"name": "zeus-agent", "mountPath": FOLDER, "readOnly": True}],
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node.name},
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "zeus-agent", "projected": {"sources": sources}}],
    }
    return team.api.post(
        f"/api/v1/namespaces/{team.namespace}/pods",
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"}, "spec": spec},
    )


def answers(team: Team) -> dict[str, dict[str, Any]]:
    """Return what the agent has answered, by what it was asked for."""
    lines = log_of(team.api, team.namespace, "asks").splitlines()
    if "done" not in lines:
        return {}
    return {each["of"]: each for each in map(json.loads, lines[: lines.index("done")])}


def test_a_pod_may_limit_its_own_gpu_and_no_other(release: Release, make_team: MakeTeam) -> None:
    team = make_team()
    team.cluster.kubectl("label", "namespace", team.namespace, "zeus.energy/agent-access=enabled")
    node = release.cluster.nodes[0]
    gpus = release.gpus(node).uuids()

    ask_for(team, node, gpus)
    await_phase(team.api, team.namespace, "asks", "Running")
    said = eventually(lambda: answers(team), "the pod has asked")

    (own,) = [gpu for gpu in gpus if said[gpu]["own"]]
    (other,) = set(gpus) - {own}
    assert said[own]["status"] == 200
    assert said[other]["status"] == 403
    assert said[other]["said"]["code"] == "not_owner"
    limits = dict(zip(gpus, release.limits_watts(node), strict=True))
    assert limits == {own: WISH_WATTS, other: DEFAULT_LIMIT_WATTS}

    team.kubectl("delete", "pod", "asks")
    release.await_limits_put_back(node)


def test_a_pod_may_not_limit_a_gpu_of_another_node(release: Release, make_team: MakeTeam) -> None:
    team = make_team()
    team.cluster.kubectl("label", "namespace", team.namespace, "zeus.energy/agent-access=enabled")
    here, there = release.cluster.nodes
    (foreign, *_) = release.gpus(there).uuids()

    ask_for(team, here, [foreign])
    await_phase(team.api, team.namespace, "asks", "Running")
    said = eventually(lambda: answers(team), "the pod has asked")

    assert said[foreign]["status"] in (403, 404)
    assert set(release.limits_watts(there)) == {DEFAULT_LIMIT_WATTS}
