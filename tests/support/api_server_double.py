"""An API server for the agent's few calls, over real HTTP, whose faults a test can switch.

It answers as kube-apiserver does (`tests/cluster/test_agent_identity.py` runs the same agent code
against a real one): lists in pages, watches with versions and bookmarks, reviews of the tokens that
it has issued itself and whose pods it still has.
"""

from __future__ import annotations

import asyncio
import base64
import enum
import itertools
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from zeus_agent.cluster.api_address import ApiAddress

Object = dict[str, Any]

NODE = "node-1"
AUDIENCE = "zeus-agent"


class Fault(enum.Enum):
    """What the server does instead of answering."""

    NONE = "none"
    HANG = "hang"
    ERROR = "error"  # 500
    BUSY = "busy"  # 429
    FORBIDDEN = "forbidden"  # 403: the agent's role lacks the right
    UNAUTHORIZED = "unauthorized"  # 401: the agent's own token is not accepted
    DISCONNECT = "disconnect"
    GARBAGE = "garbage"  # 200 with text that is no JSON


@dataclass(frozen=True)
class IssuedToken:
    """What the server knows of a token of its own."""

    pod: Object | None
    username: str
    audience: str
    expires_at_seconds: float


def jwt(claims: Object, signature: str = "c2lnbmF0dXJl") -> str:
    """Return a token with these claims; nothing here checks the signature."""

    def part(value: Object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256', 'kid': 'key'})}.{part(claims)}.{signature}"


def pod_manifest(
    namespace: str = "team",
    name: str = "train",
    *,
    node: str = NODE,
    phase: str = "Running",
    uid: str = "",
    labels: dict[str, str] | None = None,
    **metadata: Any,
) -> Object:
    """Return a pod as the API server has it."""
    about = {
        "namespace": namespace,
        "name": name,
        "uid": uid or str(uuid.uuid4()),
        "labels": labels or {},
        **metadata,
    }
    spec = {"nodeName": node, "serviceAccountName": "trainer"}
    return {"metadata": about, "spec": spec, "status": {"phase": phase}}


class ApiServerDouble:
    """Start it in the event loop of the test; a context manager.

    Args:
        wall_clock: seconds since 1970, by which tokens expire.
        history: events that a watch can still go back to.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time, *, history: int = 1000) -> None:
        self.wall_clock = wall_clock
        self.review_fault = self.list_fault = self.watch_fault = self.get_fault = Fault.NONE
        self.knows_nodes = True  # False: as before 1.30
        self.knows_audiences = True
        self.reviewed: list[str] = []
        self.requests: list[str] = []
        self.authorizations: set[str] = set()
        self.events: list[tuple[str, Object]] = []
        self.busiest_reviews = 0
        self.let_reviews_go: asyncio.Event | None = None  # reviews wait for it
        self.let_lists_begin: asyncio.Event | None = None  # lists wait for it and are then read
        self.let_lists_go: asyncio.Event | None = None  # lists, already read, wait for it
        self.let_gets_go: asyncio.Event | None = None  # so do answers about one pod
        self._history = history
        self._tokens: dict[str, IssuedToken] = {}
        self._pods: dict[tuple[str, str], Object] = {}
        self._log: list[tuple[int, str, Object]] = []
        self._version = 100
        self._oldest = 100
        self._changed = asyncio.Condition()
        self._reviews_now = 0
        self._ends = 0  # grows when all watches shall end
        self._breaks = 0  # grows when all watches shall break
        self._serial = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self._port = 0

    # ---- life -----------------------------------------------------------------

    async def __aenter__(self) -> ApiServerDouble:
        await self.come_back()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.go_away()

    async def come_back(self) -> None:
        """Listen, at the port that it has always had."""
        application = web.Application()
        pods = "/api/v1/namespaces/{namespace}/pods/{name}"
        events = "/api/v1/namespaces/{namespace}/events"
        application.add_routes(
            [
                web.post("/apis/authentication.k8s.io/v1/tokenreviews", self._review),
                web.get("/api/v1/pods", self._list_or_watch),
                web.get(pods, self._get_pod),
                web.post(events, self._post_event),
                web.patch(events + "/{name}", self._patch_event),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def go_away(self) -> None:
        """Close everything; connections are refused from now on."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await self.break_watches()
            await runner.cleanup()

    @property
    def address(self) -> ApiAddress:
        """Where it listens."""
        return ApiAddress(f"http://127.0.0.1:{self._port}")

    # ---- the cluster ------------------------------------------------------------

    async def add(self, manifest: Object) -> Object:
        """Create a pod, or change the one of that name."""
        kind = "MODIFIED" if _key(manifest) in self._pods else "ADDED"
        await self._record(kind, manifest)
        return manifest

    async def delete(self, manifest: Object) -> None:
        """Remove a pod."""
        await self._record("DELETED", manifest)

    def show_again(self, manifest: Object) -> None:
        """Answer requests for a pod with what it was, as an answer that was long on its way."""
        self._pods[_key(manifest)] = manifest

    def forget(self, manifest: Object) -> None:
        """Have had the pod removed before what watches are told from now on."""
        self._pods.pop(_key(manifest), None)

    async def bookmark(self) -> None:
        """Tell all watches the newest version."""
        await self._record("BOOKMARK", {"kind": "Pod", "metadata": {}})

    async def forget_history(self) -> None:
        """Compact: watches from before now are too old."""
        self._log.clear()
        self._oldest = self._version

    async def end_watches(self) -> None:
        """End all watches in good order, as the server does after `timeoutSeconds`."""
        async with self._changed:
            self._ends += 1
            self._changed.notify_all()

    async def break_watches(self) -> None:
        """Break the connections of all watches."""
        async with self._changed:
            self._breaks += 1
            self._changed.notify_all()

    def issue(
        self,
        pod: Object | None,
        *,
        audience: str = AUDIENCE,
        account: str = "trainer",
        namespace: str = "team",
        lifetime_seconds: float = 3600.0,
        claims: Object | None = None,
    ) -> str:
        """Return a token, bound to `pod` if there is one, that a review accepts."""
        expires = self.wall_clock() + lifetime_seconds
        namespace = pod["metadata"]["namespace"] if pod else namespace
        username = f"system:serviceaccount:{namespace}:{account}"
        bound: Object = {"namespace": namespace, "serviceaccount": {"name": account}}
        if pod is not None:
            bound["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            if self.knows_nodes:
                bound["node"] = {"name": pod["spec"]["nodeName"]}
        token = jwt(
            {
                "aud": [audience],
                "exp": int(expires),
                "sub": username,
                "kubernetes.io": bound,
                "jti": str(next(self._serial)),
                **(claims or {}),
            }
        )
        self._tokens[token] = IssuedToken(pod, username, audience, expires)
        return token

    def forged(self, pod: Object) -> str:
        """Return a token that says what a good one does, and was never issued."""
        token = self.issue(pod)
        del self._tokens[token]
        return token

    def revoke(self, token: str) -> None:
        """Forget a token."""
        del self._tokens[token]

    async def _record(self, kind: str, manifest: Object) -> None:
        async with self._changed:
            self._version += 1
            manifest["metadata"]["resourceVersion"] = str(self._version)
            if kind == "DELETED":
                self._pods.pop(_key(manifest), None)
            elif kind != "BOOKMARK":
                self._pods[_key(manifest)] = manifest
            shown = json.loads(json.dumps(manifest))
            self._log.append((self._version, kind, shown))
            self._log = self._log[-self._history :]
            self._changed.notify_all()

    # ---- answers ----------------------------------------------------------------

    async def _review(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        spec = (await request.json())["spec"]
        self.reviewed.append(spec["token"])
        self._reviews_now += 1
        self.busiest_reviews = max(self.busiest_reviews, self._reviews_now)
        try:
            if self.let_reviews_go is not None:
                await self.let_reviews_go.wait()
            return await self._faulty(request, self.review_fault) or web.json_response(
                {"kind": "TokenReview", "status": self._status(spec)}, status=201
            )
        finally:
            self._reviews_now -= 1

    def _status(self, spec: Object) -> Object:
        issued = self._tokens.get(spec["token"])
        if issued is None:
            return {"user": {}, "error": "[invalid bearer token, unknown signature]"}
        if issued.expires_at_seconds <= self.wall_clock():
            return {
                "user": {},
                "error": "[invalid bearer token, service account token has expired]",
            }
        if self.knows_audiences and issued.audience not in spec["audiences"]:
            return {"user": {}, "error": f"token audiences {[issued.audience]} is invalid"}
        extra: dict[str, list[str]] = {"authentication.kubernetes.io/credential-id": ["JTI=1"]}
        if issued.pod is not None:
            about = issued.pod["metadata"]
            living = self._pods.get(_key(issued.pod))
            if living is None or living["metadata"]["uid"] != about["uid"]:
                return {"user": {}, "error": "[invalid bearer token, Token has been invalidated]"}
            extra["authentication.kubernetes.io/pod-name"] = [about["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [about["uid"]]
            if self.knows_nodes:
                node = issued.pod["spec"]["nodeName"]
                extra["authentication.kubernetes.io/node-name"] = [node]
        status: Object = {
            "authenticated": True,
            "user": {"username": issued.username, "uid": "u", "groups": [], "extra": extra},
        }
        if self.knows_audiences:
            status["audiences"] = [issued.audience]
        return status

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        node = request.query["fieldSelector"].removeprefix("spec.nodeName=")
        if request.query.get("watch") == "true":
            return await self._watch(request, node)
        failed = await self._faulty(request, self.list_fault)
        if failed is not None:
            return failed
        if self.let_lists_begin is not None:
            await self.let_lists_begin.wait()
        items = [p for p in self._pods.values() if p["spec"]["nodeName"] == node]
        begin = int(request.query.get("continue", "0"))
        end = begin + int(request.query["limit"])
        about = {"resourceVersion": str(self._version)}
        if end < len(items):
            about["continue"] = str(end)
        if self.let_lists_go is not None:
            await self.let_lists_go.wait()
        return web.json_response({"kind": "PodList", "metadata": about, "items": items[begin:end]})

    async def _watch(self, request: web.Request, node: str) -> web.StreamResponse:
        failed = await self._faulty(request, self.watch_fault)
        if failed is not None:
            return failed
        at, ends, breaks = int(request.query["resourceVersion"]), self._ends, self._breaks
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if at < self._oldest:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            await response.write(_line("ERROR", status))
            return response
        while True:
            async with self._changed:
                while (self._version, self._ends, self._breaks) == (at, ends, breaks):
                    await self._changed.wait()
                new = [each for each in self._log if each[0] > at]
                at = self._version
            for _, kind, manifest in new:
                if kind == "BOOKMARK" or manifest["spec"]["nodeName"] == node:
                    await response.write(_line(kind, manifest))
            if self._breaks > breaks:
                if request.transport is not None:  # None: the agent was quicker
                    request.transport.abort()
                return response
            if self._ends > ends:
                return response

    async def _get_pod(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        failed = await self._faulty(request, self.get_fault)
        if failed is not None:
            return failed
        pod = self._pods.get((request.match_info["namespace"], request.match_info["name"]))
        if self.let_gets_go is not None:
            await self.let_gets_go.wait()
        return _failure(404, "NotFound") if pod is None else web.json_response(pod)

    async def _post_event(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        body = await request.json()
        self.events.append(("POST", body))
        return web.json_response(body, status=201)

    async def _patch_event(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        if request.content_type != "application/merge-patch+json":
            return _failure(415, "UnsupportedMediaType")
        body = json.loads(await request.read())
        self.events.append(("PATCH " + request.match_info["name"], body))
        return web.json_response(body)

    def _note(self, request: web.Request) -> None:
        kind = "WATCH" if request.query.get("watch") == "true" else request.method
        self.requests.append(f"{kind} {request.path}")
        self.authorizations.add(request.headers.get("Authorization", ""))

    async def _faulty(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        match fault:
            case Fault.NONE:
                return None
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.DISCONNECT:
                if request.transport is not None:
                    request.transport.abort()
            case Fault.ERROR:
                return _failure(500, "InternalError")
            case Fault.BUSY:
                return _failure(429, "TooManyRequests")
            case Fault.FORBIDDEN:
                return _failure(403, "Forbidden")
            case Fault.UNAUTHORIZED:
                return _failure(401, "Unauthorized")
        return web.Response(text="<html>a proxy's words</html>")


def _key(manifest: Object) -> tuple[str, str]:
    return manifest["metadata"].get("namespace", ""), manifest["metadata"].get("name", "")


def _line(kind: str, subject: Object) -> bytes:
    return json.dumps({"type": kind, "object": subject}).encode() + b"\n"


def _failure(status: int, reason: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason}
    return web.json_response({**body, "message": f"{reason} as a test wished"}, status=status)
