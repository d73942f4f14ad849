"""The API server, as the operator uses it: raw JSON, typed failures, short time-outs.

Of the `kubernetes` package this takes what is hard to get right, the configuration (kubeconfig,
in-cluster token and its renewal) and the connection pool.  Objects stay plain dicts: the typed
models cost much time and memory, and would drop fields of newer servers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import config
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from urllib3.exceptions import HTTPError

Object = dict[str, Any]

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0
LIST_CHUNK = 500
AUTHORIZATION_KEPT_SECONDS = 1.0
"""So long nobody looks whether a token was renewed: that takes as long as a small request."""

APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class KubeError(Exception):
    """The API server refused; `message` is its own words.

    Attributes:
        status: of HTTP; 0 if nobody answered.
        reason: machine-readable, e.g. "AlreadyExists"; "" if there is none.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class KubeUnavailable(KubeError):  # noqa: N818 - a state, as ConnectionRefused is
    """Nobody answers, or the server says that it can't now: the same request may succeed later."""


class NotFound(KubeError):  # noqa: N818
    """There is no such object, namespace or resource."""


class Conflict(KubeError):  # noqa: N818
    """The object has changed meanwhile, or a precondition does not hold."""


class AlreadyExists(Conflict):
    """An object of that name is there."""


class Refused(KubeError):  # noqa: N818
    """The object is invalid, or may not be made: admission, quota, permissions."""


class HasResource(Protocol):
    """A kind, as far as its resource goes."""

    @property
    def api_version(self) -> str:
        """Group and version."""
        ...

    @property
    def plural(self) -> str:
        """By which the server knows it."""
        ...


def load_configuration(kubeconfig: str | None = None) -> Configuration:
    """Return how to reach the API server: a kubeconfig if one is named, else from inside a pod.

    Raises:
        kubernetes.config.ConfigException: neither is there.
    """
    configuration = Configuration()
    if kubeconfig:
        config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        return configuration
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        config.load_kube_config(client_configuration=configuration)
    return configuration


class KubeClient:
    """Requests to the API server.  Threads may share one.

    Every method may raise `KubeError`; none repeats a request by itself, because the work queue
    does, with a backoff.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        pool_size: int = 16,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        user_agent: str = "zeus-operator",
    ) -> None:
        configuration.connection_pool_maxsize = pool_size
        configuration.retries = False
        self._configuration = configuration
        self._pool = RESTClientObject(configuration).pool_manager
        self._timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=read_timeout_seconds)
        self._user_agent = user_agent
        self._authorization = ("", -math.inf)  # and when it was looked up

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    # Any resource --------------------------------------------------------------

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        """Return the object at `path`."""
        return self.request("GET", path, query=query)

    def create(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """POST `body` to the collection at `path`.

        Raises:
            AlreadyExists: the name is taken.
            Refused: the object is not allowed, with the server's words.
        """
        query = {"dryRun": "All"} if dry_run else None
        return self.request("POST", path, body=body, query=query)

    def replace(self, path: str, body: Object) -> Object:
        """PUT `body`; with a resourceVersion in it, only if nobody has changed the object."""
        return self.request("PUT", path, body=body)

    def apply(self, path: str, body: Object, field_manager: str) -> Object:
        """Server-side apply `body` as `field_manager`, taking over fields that others have set."""
        query = {"fieldManager": field_manager, "force": "true"}
        return self.request("PATCH", path, body=body, query=query, content_type=APPLY_PATCH)

    def merge(self, path: str, body: Object) -> Object:
        """Merge-patch the object at `path`."""
        return self.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    def delete(self, path: str, *, uid: str, propagation: str = "Background") -> bool:
        """Delete the object at `path` if it is the one with `uid`; returns whether it was there.

        Args:
            propagation: "Foreground" keeps it visible until its dependents are gone.
        """
        body = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        try:
            self.request("DELETE", path, body=body)
        except (NotFound, Conflict):
            return False  # gone, or another object of that name
        return True

    def items(
        self, path: str, query: Mapping[str, str] | None = None, *, metadata_only: bool = False
    ) -> Iterator[Object]:
        """Yield the objects of the collection at `path`, in chunks, of one consistent list.

        Raises:
            KubeError: 410 where the list took so long that it can't be continued.
        """
        accept = _METADATA_LIST if metadata_only else None
        more = {**(query or {}), "limit": str(LIST_CHUNK)}
        while True:
            page = self.request("GET", path, query=more, accept=accept)
            yield from page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            more["continue"] = token

    def knows(self, kind: HasResource) -> bool:
        """Return whether the server serves a kind now."""
        try:
            found = self.get(path_of(kind.api_version, "").rstrip("/"))
        except NotFound:
            return False
        return any(each.get("name") == kind.plural for each in found.get("resources") or ())

    def authorization(self) -> str:
        """Return who asks, as the header says it: "Bearer ..."; "" with a certificate."""
        known, looked_at = self._authorization
        now = time.monotonic()
        if now - looked_at < AUTHORIZATION_KEPT_SECONDS:
            return known
        # Renewed by the package's hook where it is a file that changes.
        found = self._configuration.get_api_key_with_prefix("BearerToken", "authorization")
        authorization = str(found or "")
        self._authorization = (authorization, now)
        return authorization

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str | None = None,
    ) -> Object:
        """Send one request and return the JSON of the answer."""
        url = self._configuration.host.rstrip("/") + path
        if query:
            url += "?" + urlencode(query)
        headers = {"Accept": accept or "application/json", "User-Agent": self._user_agent}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body, separators=(",", ":"))
        authorization = self.authorization()
        if authorization:
            headers["Authorization"] = authorization
        try:
            response = self._pool.request(
                method, url, body=data, headers=headers, timeout=self._timeout, retries=False
            )
        except HTTPError as error:
            raise KubeUnavailable(0, "", f"the API server does not answer: {error}") from error
        if response.status >= 400:
            raise _failure(response.status, response.data)
        if not response.data:
            return {}
        try:
            found: Object = json.loads(response.data)
        except ValueError:
            raise KubeUnavailable(
                response.status, "", "what answers is not the API server: it sends no JSON"
            ) from None
        return found


def _failure(status: int, data: bytes) -> KubeError:
    """Return the exception for an answer of the API server (a `Status` object)."""
    try:
        body = json.loads(data)
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    reason = str(body.get("reason") or "")
    message = str(body.get("message") or data.decode(errors="replace").strip() or f"HTTP {status}")
    if status == 404:
        return NotFound(status, reason, message)
    if status == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        return kind(status, reason, message)
    if status in (408, 429) or status >= 500:
        return KubeUnavailable(status, reason, message)
    if status in (400, 403, 413, 422):
        return Refused(status, reason, message)
    return KubeError(status, reason, message)


def path_of(
    api_version: str, plural: str, namespace: str | None = None, name: str = "", sub: str = ""
) -> str:
    """Return the path of a collection, an object or its subresource."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    parts = [root]
    if namespace is not None:
        parts.append(f"namespaces/{quote(namespace, safe='')}")
    parts.append(plural)
    if name:
        parts.append(quote(name, safe=""))
    if sub:
        parts.append(sub)
    return "/".join(parts)
