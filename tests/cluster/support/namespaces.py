"""A namespace for each test."""

from __future__ import annotations

import contextlib

from tests.cluster.support.api import ApiFailure
from tests.cluster.support.control_plane import ControlPlane
from tests.support.eventually import eventually


def create_namespace(cluster: ControlPlane, name: str) -> None:
    """Create namespace `name` and wait until pods may be created in it."""
    with contextlib.closing(cluster.api()) as api:
        api.post("/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        eventually(
            lambda: api.find(account) is not None,
            f"the service account of {name}",
            # After a test that took the API server away, its controllers wait up to half a minute
            # between tries to list and to watch again.
            deadline_seconds=180.0,
        )


def remove_namespace(cluster: ControlPlane, name: str) -> None:
    """Delete namespace `name` with all that is in it; does not wait until it is gone."""
    with contextlib.closing(cluster.api()) as api, contextlib.suppress(ApiFailure):
        api.delete(f"/api/v1/namespaces/{name}")
        # Nobody plays the kubelet any more: pods with a node would stay for ever.
        api.delete(f"/apis/batch/v1/namespaces/{name}/jobs", propagationPolicy="Background")
        api.delete(f"/api/v1/namespaces/{name}/pods", gracePeriodSeconds=0)
