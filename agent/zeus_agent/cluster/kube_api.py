"""A small client of the Kubernetes API server: the few calls that an agent makes.

The kubernetes package would take more memory than the whole agent may have.  Paths and bodies are
those of the API reference: authentication.k8s.io/v1 TokenReview, core/v1 Pod and Event.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from zeus_agent.cluster.api_address import ApiAddress, ApiNotConfigured, Credentials
from zeus_agent.cluster.facts import TokenReview
from zeus_agent.cluster.json_lines import BrokenStream, split_lines
from zeus_agent.cluster.keepalive import notice_a_dead_peer

__all__ = [
    "ApiAddress",
    "ApiNotConfigured",
    "ApiRefused",
    "ApiUnavailable",
    "KubeApi",
    "PodPage",
    "TokenReview",
    "WatchEvent",
]

Object = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0
WATCH_SECONDS = 240
QUIET_SECONDS = 90.0
"""A watch is silent for at most a minute, then a bookmark comes: longer means a dead connection."""
PAGE_PODS = 20
"""Parsed JSON takes ten times its text: a node full of pods at once would be many megabytes."""
MAX_CONNECTIONS = 64
MERGE_PATCH = "application/merge-patch+json"

_GONE = 410


class ApiUnavailable(Exception):  # noqa: N818 -- a fact about who is asked
    """The API server has not answered, or is too busy to; the same request may work later.

    Attributes:
        is_unreachable: nobody could be connected to, as opposed to an answer that failed.
    """

    def __init__(self, message: str, *, is_unreachable: bool = False) -> None:
        super().__init__(message)
        self.is_unreachable = is_unreachable


class ApiRefused(Exception):  # noqa: N818 -- a fact about who is asked
    """The API server said no.

    Attributes:
        status: of HTTP.
        reason: machine-readable, e.g. "Forbidden"; may be "".
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"the API server answered {status} {reason}: {message}")
        self.status = status
        self.reason = reason

    @property
    def is_too_old(self) -> bool:
        """Whether a list or watch has to begin anew (410 Gone)."""
        return self.status == _GONE


@dataclass(frozen=True, slots=True)
class PodPage:
    """Some of the pods of a list; `resource_version` is the whole list's."""

    pods: tuple[Object, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of a watch: ADDED, MODIFIED, DELETED or BOOKMARK."""

    kind: str
    subject: Object


class KubeApi:
    """Requests to one API server.  Use it in one event loop; close it at the end.

    Args:
        address: where, and our own token.
        quiet_seconds: a watch that says nothing for longer is taken for broken.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        address: ApiAddress,
        *,
        quiet_seconds: float = QUIET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = Credentials(address, clock)
        self._url = address.url.rstrip("/")
        self._quiet_seconds = quiet_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    # ---- calls ----------------------------------------------------------------

    async def review_token(
        self, token: str, audience: str, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    ) -> TokenReview:
        """Ask who a token speaks for, if it is meant for `audience`.

        Raises:
            ApiUnavailable: no answer now.
            ApiRefused: we may not ask; the agent's role lacks `create tokenreviews`.
        """
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        return _token_review(await self._send("POST", path, body, timeout_seconds=timeout_seconds))

    async def get_pod(self, namespace: str, name: str) -> Object | None:
        """Return a pod as it is now, None if there is none.

        Raises:
            ApiUnavailable, ApiRefused: there is no telling.
        """
        try:
            return await self._send("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        except ApiRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def pod_pages(self, node: str) -> AsyncGenerator[PodPage, None]:
        """Yield all pods of a node as they are now (a consistent read), page by page.

        Raises:
            ApiUnavailable, ApiRefused: the list is not complete; start anew.
        """
        query = {"fieldSelector": f"spec.nodeName={node}", "limit": str(PAGE_PODS)}
        while True:
            page = await self._send("GET", "/api/v1/pods", query=query)
            about = page.get("metadata") or {}
            yield PodPage(tuple(page.get("items") or ()), str(about.get("resourceVersion", "")))
            if not about.get("continue"):
                return
            query = {**query, "continue": about["continue"]}

    async def watch_pods(
        self, node: str, resource_version: str
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happens to the pods of a node after `resource_version`, until the server ends.

        Raises:
            ApiUnavailable: the connection broke or went silent.
            ApiRefused: `is_too_old` if the list has to be read anew.
        """
        query = {
            "watch": "true",
            "fieldSelector": f"spec.nodeName={node}",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=self._quiet_seconds
        )
        try:
            async with self._open("GET", "/api/v1/pods", timeout, query=query) as response:
                await _raise_for_status(response)
                notice_a_dead_peer(response)
                async for line in split_lines(response.content.iter_any()):
                    yield _watch_event(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, BrokenStream) as error:
            raise _unavailable("the watch of the pods", error) from error

    async def create_event(self, namespace: str, body: Object) -> Object:
        """Create a core/v1 Event and return it.

        Raises:
            ApiUnavailable, ApiRefused: it is not created, or nobody knows.
        """
        return await self._send("POST", f"/api/v1/namespaces/{namespace}/events", body)

    async def patch_event(self, namespace: str, name: str, body: Object) -> Object:
        """Change an Event by a merge patch and return it.

        Raises:
            ApiUnavailable: nobody knows.
            ApiRefused: also if it has expired (404).
        """
        path = f"/api/v1/namespaces/{namespace}/events/{name}"
        return await self._send("PATCH", path, body, content_type=MERGE_PATCH)

    # ---- how ------------------------------------------------------------------

    async def _send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Object:
        timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds)
        )
        data = None if body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            try:
                async with self._open(
                    method, path, timeout, query=query, data=data, content_type=content_type
                ) as response:
                    if response.status == 401 and attempt == 1:
                        self._credentials.forget()  # replaced a moment ago?
                        continue
                    await _raise_for_status(response)
                    answer: Object = _object(await response.read())
                    return answer
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                raise _unavailable(f"{method} {path}", error) from error
        raise AssertionError("the second attempt returns or raises")

    def _open(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
        content_type: str = "application/json",
    ) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS), auto_decompress=False
            )
        token, context = self._credentials.current()
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if data is not None:
            headers["Content-Type"] = content_type
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self._session.request(
            method,
            self._url + path,
            params=query,
            data=data,
            headers=headers,
            timeout=timeout,
            ssl=context,
            allow_redirects=False,  # our token is for this server alone
        )


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 300:
        return
    try:
        status = _object(await response.read())
    except ValueError:  # a proxy in between answers in its own words
        status = {}
    message = str(status.get("message") or response.reason or "")
    if response.status == 429 or response.status >= 500:
        raise ApiUnavailable(f"the API server answered {response.status}: {message}")
    raise ApiRefused(response.status, str(status.get("reason") or ""), message)


def _unavailable(what: str, error: Exception) -> ApiUnavailable:
    is_unreachable = isinstance(
        error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    )
    words = "no answer in time" if isinstance(error, TimeoutError) else str(error)
    return ApiUnavailable(f"{what}: {words or type(error).__name__}", is_unreachable=is_unreachable)


def _object(data: bytes) -> Object:
    parsed = json.loads(data)
    if not isinstance(parsed, dict):
        raise ValueError("the API server answered something that is no object")
    return parsed


def _watch_event(line: bytes) -> WatchEvent:
    event = _object(line)
    kind, subject = str(event.get("type")), event.get("object")
    if not isinstance(subject, dict):
        raise ValueError("an event of the watch has no object")
    if kind == "ERROR":
        code = int(subject.get("code") or 500)
        message = str(subject.get("message") or "")
        if code == 429 or code >= 500:
            raise ApiUnavailable(f"the watch ended with {code}: {message}")
        raise ApiRefused(code, str(subject.get("reason") or ""), message)
    return WatchEvent(kind, subject)


def _token_review(answer: Object) -> TokenReview:
    status = answer.get("status") or {}
    user = status.get("user") or {}
    extra = user.get("extra") or {}
    return TokenReview(
        authenticated=status.get("authenticated") is True,
        username=str(user.get("username") or ""),
        audiences=tuple(str(each) for each in status.get("audiences") or ()),
        extra={str(key): tuple(map(str, values or ())) for key, values in extra.items()},
        error=str(status.get("error") or ""),
    )
