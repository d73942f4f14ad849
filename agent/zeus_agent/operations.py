"""What the API offers: one entry for each operation, for routing and for its documentation."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from zeus_agent.http1 import Request
from zeus_runtime.protocol import (
    API_PREFIX,
    ErrorCode,
    Lease,
    NodeInfo,
    PodReport,
    PowerLimitRequest,
    Result,
    SessionInfo,
    SessionRequest,
)


class Access(enum.Enum):
    """Who may call."""

    ANYONE = "anyone"
    LOCAL = "callers on the Unix socket"
    MEMBER = "pods on this node, and processes on the Unix socket"
    READER = "the operator's ServiceAccount, and root on the Unix socket"


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Args:
        name: of its handler, and its `operationId`.
        path: with parameters in braces.
        is_renewal: opens nothing and sets nothing: it goes on a while though nobody can check the
            caller's token anew.
        body: what is sent; None: nothing.
        is_body_needed: an empty body is refused.
        answer: what comes back with 200; None: nothing, with 204.
        is_list: of `answer`.
        is_restoring: 202 says that the limit is not back yet.
        codes: errors of its own, beside those that any operation can have.
    """

    name: str
    method: str
    path: str
    summary: str
    access: Access
    is_renewal: bool = True
    body: type | None = None
    is_body_needed: bool = True
    answer: type | str | None = None
    is_list: bool = False
    is_restoring: bool = False
    codes: tuple[ErrorCode, ...] = ()

    @property
    def route(self) -> str:
        """Method and path, for metrics."""
        return f"{self.method} {self.path}"


_SESSION = API_PREFIX + "/sessions/{session}"
_LIMIT = _SESSION + "/gpus/{gpu}/power-limit"
_OWN = (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN)

HEALTH = (
    Operation(
        "healthz", "GET", "/healthz", "Whether the process serves", Access.ANYONE, answer="object"
    ),
    Operation(
        "readyz",
        "GET",
        "/readyz",
        "Whether the agent can do its work; `note` says why there is no GPU to manage",
        Access.LOCAL,
        answer="object",
        codes=(ErrorCode.NOT_READY,),
    ),
    Operation("metrics", "GET", "/metrics", "Prometheus text format", Access.LOCAL, answer="text"),
)

OPERATIONS = (
    *HEALTH,
    Operation(
        "openapi",
        "GET",
        API_PREFIX + "/openapi.json",
        "This document",
        Access.MEMBER,
        answer="object",
    ),
    Operation(
        "node",
        "GET",
        API_PREFIX + "/node",
        "The machine and its GPUs; to a pod, those it was given",
        Access.MEMBER,
        answer=NodeInfo,
    ),
    Operation(
        "leases",
        "GET",
        API_PREFIX + "/leases",
        "The limits that are held; to a pod, its own",
        Access.MEMBER,
        answer=Lease,
        is_list=True,
    ),
    Operation(
        "open_session",
        "PUT",
        _SESSION,
        "Open a session, or renew it",
        Access.MEMBER,
        is_renewal=False,
        body=SessionRequest,
        is_body_needed=False,
        answer=SessionInfo,
        codes=(ErrorCode.FORBIDDEN, ErrorCode.TOO_MANY_SESSIONS),
    ),
    Operation(
        "get_session",
        "GET",
        _SESSION,
        "A session and its leases; does not renew it",
        Access.MEMBER,
        answer=SessionInfo,
        codes=(ErrorCode.NOT_FOUND,),
    ),
    Operation(
        "close_session",
        "DELETE",
        _SESSION,
        "End a session and put back its limits",
        Access.MEMBER,
        is_restoring=True,
        codes=_OWN,
    ),
    Operation(
        "renew",
        "POST",
        _SESSION + "/renew",
        "Give a session its whole time to live again",
        Access.MEMBER,
        answer=SessionInfo,
        codes=_OWN,
    ),
    Operation(
        "report",
        "PUT",
        _SESSION + "/report",
        "Hand over the result so far",
        Access.MEMBER,
        body=Result,
        codes=(*_OWN, ErrorCode.STALE_SEQUENCE),
    ),
    Operation(
        "set_power_limit",
        "PUT",
        _LIMIT,
        "Set the limit of a GPU and read it back",
        Access.MEMBER,
        is_renewal=False,
        body=PowerLimitRequest,
        answer=Lease,
        codes=(
            *_OWN,
            ErrorCode.NOT_OWNER,
            ErrorCode.GPU_SHARED,
            ErrorCode.POLICY_DENIED,
            ErrorCode.GPU_LEASED,
            ErrorCode.STALE_SEQUENCE,
            ErrorCode.FOREIGN_CHANGE,
            ErrorCode.RATE_LIMITED,
            ErrorCode.NOT_SUPPORTED,
            ErrorCode.NVML_ERROR,
            ErrorCode.GPU_LOST,
            ErrorCode.NO_PERMISSION,
            ErrorCode.NVML_TIMEOUT,
            ErrorCode.STATE_NOT_SAVED,
        ),
    ),
    Operation(
        "release",
        "DELETE",
        _LIMIT,
        "Give the lease of a GPU back, and its former limit",
        Access.MEMBER,
        is_restoring=True,
        codes=_OWN,
    ),
    Operation(
        "reports",
        "GET",
        API_PREFIX + "/reports",
        "The last report of each pod, the newest first",
        Access.READER,
        answer=PodReport,
        is_list=True,
    ),
    Operation(
        "report_of_pod",
        "GET",
        API_PREFIX + "/reports/{pod}",
        "The last report of a pod",
        Access.READER,
        answer=PodReport,
        codes=(ErrorCode.NOT_FOUND,),
    ),
)


@dataclass(frozen=True, slots=True)
class Match:
    """Where a request goes."""

    operation: Operation
    parameters: dict[str, str]


class NoOperation(Exception):  # noqa: N818 -- an answer to the caller
    """Nothing is at the path, or not by this method.

    Attributes:
        allowed: methods that the path takes; empty: there is no such path.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(allowed)
        self.allowed = allowed


class _Node:
    def __init__(self) -> None:
        self.operations: dict[str, Operation] = {}
        self.children: dict[str, _Node] = {}
        self.parameter: tuple[str, _Node] | None = None


class Router:
    """Finds the operation of a request."""

    def __init__(self, operations: tuple[Operation, ...]) -> None:
        self._root = _Node()
        for operation in operations:
            self._add(operation)

    def find(self, request: Request) -> Match:
        """Return where a request goes.

        Raises:
            NoOperation: nowhere.
            BadHttp: its path is malformed.
        """
        node = self._root
        parameters: dict[str, str] = {}
        for segment in request.segments():
            child = node.children.get(segment)
            if child is None:
                if node.parameter is None:
                    raise NoOperation(())
                name, child = node.parameter
                parameters[name] = segment
            node = child
        operation = node.operations.get(request.head.method)
        if operation is None:
            raise NoOperation(tuple(sorted(node.operations)))
        return Match(operation, parameters)

    def _add(self, operation: Operation) -> None:
        node = self._root
        for segment in operation.path[1:].split("/"):
            if segment.startswith("{"):
                if node.parameter is None:
                    node.parameter = (segment[1:-1], _Node())
                node = node.parameter[1]
            else:
                node = node.children.setdefault(segment, _Node())
        node.operations[operation.method] = operation
