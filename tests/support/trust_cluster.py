"""As much of an API server as the trust in agents uses, in memory, with faults to switch.

What a real one makes of the same requests: `tests/cluster/test_trust.py`.
"""

from __future__ import annotations

import threading
from typing import Any

from kubernetes.client import Configuration

from zeus_operator.kube import KubeClient, KubeUnavailable, NotFound

Object = dict[str, Any]


class TrustCluster(KubeClient):
    """Objects by their path, on an API server whose ConfigMaps are slow to write.

    Attributes:
        objects: what there is.
        writes: paths, in the order of the writes.
        seconds: monotonic.
        config_map_seconds: what each write of a ConfigMap takes.
        config_maps_fail: and then it does not happen.
        may_read_namespaces: a question which namespaces have access waits for it.
        readers: who has asked that.
    """

    def __init__(self, *with_access: str) -> None:
        super().__init__(Configuration())
        self.objects: dict[str, Object] = {}
        self.writes: list[str] = []
        self.seconds = 0.0
        self.config_map_seconds = 0.0
        self.config_maps_fail = False
        self.with_access = [*with_access]
        self.may_read_namespaces = threading.Event()
        self.may_read_namespaces.set()
        self.readers: list[threading.Thread] = []

    def request(
        self, method: str, path: str, *, body: Object | None = None, **_rest: Any
    ) -> Object:
        if method == "GET":
            return self._read(path)
        if method == "POST" and body is not None:
            path = f"{path}/{body['metadata']['name']}"
        self.writes.append(path)
        if "/configmaps/" in path:
            self.seconds += self.config_map_seconds
            if self.config_maps_fail:
                raise KubeUnavailable(500, "", "an admission webhook does not answer")
        if method == "DELETE":
            return self.objects.pop(path)
        assert body is not None
        self.objects[path] = {**body, "metadata": {**body["metadata"], "uid": path}}
        return self.objects[path]

    def _read(self, path: str) -> Object:
        if path == "/api/v1/namespaces":
            self.readers.append(threading.current_thread())
            assert self.may_read_namespaces.wait(30)
            labels = {"zeus.energy/agent-access": "enabled"}
            return {
                "items": [
                    {"metadata": {"name": each, "labels": labels}} for each in self.with_access
                ]
            }
        if path == "/api/v1/configmaps":
            return {"items": [each for at, each in self.objects.items() if "/configmaps/" in at]}
        if path not in self.objects:
            raise NotFound(404, "NotFound", path)
        return self.objects[path]

    @property
    def published(self) -> set[str]:
        return {at.split("/")[4] for at in self.objects if "/configmaps/" in at}
