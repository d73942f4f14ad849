"""The API server as the tests use it: plain JSON, no repeats, and a watch.

Apart from the operator's own client, so that a fault in that one can't hide itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


class ApiFailure(Exception):  # noqa: N818
    """A request failed.

    Attributes:
        status: of HTTP; 0 if nobody answered.
        reason: machine-readable, e.g. "AlreadyExists".
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class Api:
    """Requests with the rights that a kubeconfig of `ControlPlane` gives.  Threads may share it."""

    def __init__(self, kubeconfig: Path, *, pool_size: int = 16) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self._url = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        self._headers = {"Accept": "application/json"}
        if "token" in user:
            self._headers["Authorization"] = f"Bearer {user['token']}"
        else:
            with tempfile.NamedTemporaryFile() as both:  # ssl takes keys from files only
                both.write(base64.b64decode(user["client-certificate-data"]))
                both.write(base64.b64decode(user["client-key-data"]))
                both.flush()
                context.load_cert_chain(both.name)
        self._pool = urllib3.PoolManager(maxsize=pool_size, ssl_context=context, retries=False)
        self._watches: set[urllib3.BaseHTTPResponse] = set()
        self._interrupted: set[urllib3.BaseHTTPResponse] = set()
        self._watches_lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        """Return the object or list at `path`."""
        return self._json("GET", path, query=query)

    def find(self, path: str) -> Object | None:
        """Return the object at `path`, None if there is none."""
        try:
            return self.get(path)
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise

    def items(self, path: str, selector: str = "") -> list[Object]:
        """Return the objects of the collection at `path`."""
        query = {"labelSelector": selector} if selector else None
        found: list[Object] = self.get(path, query).get("items") or []
        return found

    def post(self, path: str, body: Object) -> Object:
        """POST `body`."""
        return self._json("POST", path, body=body)

    def patch(self, path: str, body: Object, content_type: str = MERGE_PATCH) -> Object:
        """PATCH the object at `path`."""
        return self._json("PATCH", path, body=body, content_type=content_type)

    def delete(self, path: str, **options: Any) -> Object:
        """DELETE what is at `path`; `options` of `DeleteOptions`, e.g. `gracePeriodSeconds=0`."""
        return self._json("DELETE", path, body=dict(options))

    def text(self, path: str) -> str:
        """Return the answer at `path` as it comes."""
        return self._request("GET", path).decode()

    def watch(self, path: str, query: Mapping[str, str], quiet_seconds: float) -> Iterator[Object]:
        """Yield the events of a watch until the server ends it.

        Raises:
            ApiFailure: the connection broke, or nothing came for `quiet_seconds`.
        """
        url = f"{self._url}{path}?{urlencode({**query, 'watch': 'true'})}"
        timeout = urllib3.Timeout(connect=5.0, read=quiet_seconds)
        try:
            response = self._pool.request(
                "GET", url, headers=self._headers, timeout=timeout, preload_content=False
            )
            if response.status >= 400:
                raise _failure(response.status, response.read())
            with self._watches_lock:
                self._watches.add(response)
            try:
                rest = b""
                for chunk in response.stream(None):
                    if response in self._interrupted:
                        # Shutting an SSLSocket down takes its TLS away: what was read meanwhile may
                        # be ciphertext.
                        raise ApiFailure(0, "", "the watch was interrupted")
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
            finally:
                with self._watches_lock:
                    self._watches.discard(response)
                    self._interrupted.discard(response)
                response.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiFailure(0, "", f"the watch broke: {error}") from error

    def interrupt_watches(self) -> None:
        """End all watches that other threads wait in."""
        with self._watches_lock:
            for response in self._watches:
                self._interrupted.add(response)
                with contextlib.suppress(OSError, ValueError):  # it has just ended by itself
                    response.shutdown()

    def _json(self, method: str, path: str, **rest: Any) -> Object:
        answer = self._request(method, path, **rest)
        parsed: Object = json.loads(answer) if answer else {}
        return parsed

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        url = self._url + path + (f"?{urlencode(query)}" if query else "")
        headers, data = self._headers, None
        if body is not None:
            headers, data = {**headers, "Content-Type": content_type}, json.dumps(body)
        timeout = urllib3.Timeout(connect=5.0, read=30.0)
        try:
            response = self._pool.request(method, url, body=data, headers=headers, timeout=timeout)
        except urllib3.exceptions.HTTPError as error:
            raise ApiFailure(0, "", f"the API server does not answer: {error}") from error
        if response.status >= 400:
            raise _failure(response.status, response.data)
        return bytes(response.data)


def _failure(status: int, data: bytes) -> ApiFailure:
    try:
        body = json.loads(data)
        return ApiFailure(status, str(body.get("reason", "")), str(body.get("message", "")))
    except (ValueError, AttributeError):
        return ApiFailure(status, "", data.decode(errors="replace"))
