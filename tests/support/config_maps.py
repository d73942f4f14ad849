"""An API server's ConfigMaps of one namespace, for tests of what is projected into them."""

from __future__ import annotations

import base64
import itertools
from typing import Any

from kubernetes.client import Configuration

from zeus_operator.history import config_map
from zeus_operator.kube import AlreadyExists, Conflict, KubeClient, KubeError, NotFound, Object

NAMESPACE = "default"
NAME = "digits-zeus-history"
OWNER = {"apiVersion": "zeus.energy/v1alpha1", "kind": "ZeusJob", "name": "digits"}


class ConfigMaps(KubeClient):
    """The ConfigMaps of one namespace, as an API server keeps them.

    Attributes:
        refuses: raised by every write.
        refuses_reads: raised by every read.
        requests: method of each request to ConfigMaps, in order.
        events: that were posted.
    """

    def __init__(self) -> None:
        super().__init__(Configuration())
        self._versions = itertools.count(1)
        self.objects: dict[str, Object] = {}
        self.refuses: KubeError | None = None
        self.refuses_reads: KubeError | None = None
        self.requests: list[str] = []
        self.events: list[Object] = []

    def request(self, method: str, path: str, *, body: Object | None = None, **rest: Any) -> Object:
        if path == f"/api/v1/namespaces/{NAMESPACE}/events":
            assert body is not None
            if body["metadata"]["name"] in [each["metadata"]["name"] for each in self.events]:
                raise AlreadyExists(409, "AlreadyExists", "it was said")
            self.events.append(body)
            return body
        assert path.startswith(f"/api/v1/namespaces/{NAMESPACE}/configmaps")
        self.requests.append(method)
        failure = self.refuses_reads if method == "GET" else self.refuses
        if failure is not None:
            raise failure
        name = path.rpartition("/")[2]
        if method == "POST":
            assert body is not None
            return self._create(body)
        if name not in self.objects:
            raise NotFound(404, "NotFound", f"no {name}")
        if method == "PATCH":
            assert body is not None
            self._merge(self.objects[name], body)
        # Contents are never asked for.
        return {"metadata": self.objects[name]["metadata"]}

    def _create(self, body: Object) -> Object:
        name = body["metadata"]["name"]
        if name in self.objects:
            raise AlreadyExists(409, "AlreadyExists", f"{name} exists")
        metadata = {**body["metadata"], "resourceVersion": str(next(self._versions))}
        self.objects[name] = {**body, "metadata": metadata}
        return {"metadata": metadata}

    def _merge(self, found: Object, body: Object) -> None:
        seen = body["metadata"]["resourceVersion"]
        if seen != found["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "it has changed")
        found["metadata"] |= {**body["metadata"], "resourceVersion": str(next(self._versions))}
        found["binaryData"] |= body["binaryData"]

    def put(self, **metadata: Any) -> None:
        """Let somebody else create one of the name."""
        self._create({"metadata": {"name": NAME, **metadata}, "binaryData": {}})

    @property
    def contents(self) -> bytes:
        return base64.b64decode(self.objects[NAME]["binaryData"][config_map.KEY])
