"""Pods as the tests here make them, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.support.api import Api
from tests.full_cluster.images import TEST_IMAGE
from tests.support.eventually import eventually

Object = dict[str, Any]
_DEADLINE_SECONDS = 60.0


def shell(script: str) -> list[str]:
    """Return the command that runs `script`, itself the container's first process."""
    return ["/bin/sh", "-ec", script]


def pod_spec(
    command: Sequence[str], *, node: str = "", limits: Mapping[str, str] | None = None
) -> Object:
    """Return the spec of a pod that runs once.

    Args:
        node: where; it still goes through the scheduler.
        limits: of its container, e.g. `{"nvidia.com/gpu": "1"}`.
    """
    spec: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "main",
                "image": TEST_IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": list(command),
                "resources": {"limits": dict(limits or {})},
            }
        ],
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return spec


def run_pod(api: Api, namespace: str, name: str, command: Sequence[str], **spec: Any) -> None:
    """Create a pod; `spec` as `pod_spec` takes it."""
    labels = {"app": name}
    api.post(
        f"/api/v1/namespaces/{namespace}/pods",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": pod_spec(command, **spec),
        },
    )


def await_phase(api: Api, namespace: str, name: str, *phases: str) -> Object:
    """Return the pod when it is in one of `phases`."""

    def there() -> Object | None:
        pod = api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        return pod if pod["status"].get("phase") in phases else None

    try:
        found = eventually(there, f"pod {name} is {' or '.join(phases)}", _DEADLINE_SECONDS)
    except AssertionError as error:
        events = api.items(f"/api/v1/namespaces/{namespace}/events")
        said = "\n".join(f"{each['reason']}: {each.get('message')}" for each in events)
        raise AssertionError(f"{error}; events of the namespace:\n{said}") from None
    assert found is not None
    return found


def ended(pod: Mapping[str, Any]) -> Object:
    """Return how the container of a pod that is over ended."""
    state: Object = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def log_of(api: Api, namespace: str, name: str) -> str:
    """Return what the pod has printed, as the kubelet serves it."""
    return api.text(f"/api/v1/namespaces/{namespace}/pods/{name}/log")
