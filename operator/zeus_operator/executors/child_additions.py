"""What is added to the pod of a run where it is asked for: the token and the runtime.  Pure.

The agent knows a run by a ServiceAccount token that is bound to its pod and good for the agent
alone.  The runtime is put into an image that lacks it by an init container, which copies it into
a volume, and a launcher in front of the command, which lets Python find it there.
"""

from __future__ import annotations

from typing import Any

from zeus_operator.api.template import POD_PATH, TemplateError, TrainingContainer
from zeus_operator.workloads.fields import entries, list_in
from zeus_runtime.protocol import AGENT_AUDIENCE

TOKEN_VOLUME = "zeus-agent-token"  # noqa: S105 -- a name
TOKEN_MOUNT = "/var/run/secrets/zeus.energy"  # noqa: S105 -- a folder
TOKEN_FILE = "agent-token"  # noqa: S105 -- a file
TOKEN_SECONDS = 3600

RUNTIME_NAME = "zeus-runtime"
"""Of the volume and of the init container."""
RUNTIME_MOUNT = "/zeus"
RUNTIME_IN_IMAGE = "/opt/zeus"
"""Where the runtime image holds `launch`, `zeus_runtime/` and what that imports."""
LAUNCHER = f"{RUNTIME_MOUNT}/launch"
RUNTIME_USER = 65532
"""Any but root; the files are for everybody to read."""


def add_agent_token(
    pod: dict[str, Any], training: dict[str, Any], path: str, pod_path: str = POD_PATH
) -> None:
    """Mount a token for the agent into the `training` container, which is at `path`.

    Raises:
        TemplateError: a volume of that name or a mount there is the user's.
    """
    source = {
        "serviceAccountToken": {
            "audience": AGENT_AUDIENCE,
            "expirationSeconds": TOKEN_SECONDS,
            "path": TOKEN_FILE,
        }
    }
    _add_volume(pod, {"name": TOKEN_VOLUME, "projected": {"sources": [source]}}, pod_path)
    _add_mount(training, path, TOKEN_VOLUME, TOKEN_MOUNT)


def add_runtime(
    pod: dict[str, Any],
    training: dict[str, Any],
    container: TrainingContainer,
    image: str,
    pod_path: str = POD_PATH,
) -> None:
    """Put the runtime of `image` into the `training` container and a launcher before its command.

    Raises:
        TemplateError: it has no command, or a name or a folder of ours is the user's.
    """
    if not container.command:
        raise TemplateError(
            f"{container.path}.command",
            "is required with spec.workload.injectRuntime: the launcher stands in front of it, "
            'and what the image would start is not known here; for instance ["python", "train.py"]',
        )
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for here, other in entries(pod, key, pod_path):
            if other.get("name") == RUNTIME_NAME:
                raise TemplateError(f"{here}.name", _taken(RUNTIME_NAME))
    _add_volume(pod, {"name": RUNTIME_NAME, "emptyDir": {"sizeLimit": "64Mi"}}, pod_path)
    _add_mount(training, container.path, RUNTIME_NAME, RUNTIME_MOUNT)
    training["command"] = [LAUNCHER, *training["command"]]
    list_in(pod, "initContainers", pod_path).insert(0, _runtime_container(image))


def _runtime_container(image: str) -> dict[str, Any]:
    # Limits equal to requests: a pod of the class Guaranteed stays one.
    resources = {"cpu": "100m", "memory": "64Mi"}
    return {
        "name": RUNTIME_NAME,
        "image": image,
        "command": ["cp", "-R", f"{RUNTIME_IN_IMAGE}/.", RUNTIME_MOUNT],
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": RUNTIME_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": RUNTIME_NAME, "mountPath": RUNTIME_MOUNT}],
    }


def _add_volume(pod: dict[str, Any], volume: dict[str, Any], pod_path: str) -> None:
    for here, other in entries(pod, "volumes", pod_path):
        if other.get("name") == volume["name"]:
            raise TemplateError(f"{here}.name", _taken(volume["name"]))
    list_in(pod, "volumes", pod_path).append(volume)


def _add_mount(training: dict[str, Any], path: str, volume: str, folder: str) -> None:
    for here, other in entries(training, "volumeMounts", path):
        theirs = str(other.get("mountPath", "")).rstrip("/")
        if theirs == folder or theirs.startswith(f"{folder}/"):
            raise TemplateError(f"{here}.mountPath", _taken(theirs))
    mount = {"name": volume, "mountPath": folder, "readOnly": True}
    list_in(training, "volumeMounts", path).append(mount)


def _taken(name: str) -> str:
    return f"{name} is the operator's; choose another"
