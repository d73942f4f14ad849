"""Finds the agents by their Service, and keeps what was found for a while."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from zeus_operator.agents.endpoints import SERVICE_LABEL, AgentEndpoint, endpoints_of
from zeus_operator.kube import KubeClient, KubeError, KubeUnavailable, path_of
from zeus_operator.settings import ServiceName

FOUND_FOR_SECONDS = 10.0
"""Where the agents are is asked of the API server no more often."""
SERVED_FOR_SECONDS = 60.0
"""What was found so long ago is still told while the API server is asked, or does not answer."""
FAILED_FOR_SECONDS = 2.0
"""After a failure nobody asks again for so long."""


class Agents:
    """Where the agents are.  Threads may share it: one of them asks, none waits for that one.

    Args:
        monotonic: seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        service: ServiceName,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._service = service
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._is_asking = False
        self._found: dict[str, AgentEndpoint] = {}
        self._found_at = -math.inf
        self._failed_at = -math.inf
        self._failure = ""

    def by_node(self) -> dict[str, AgentEndpoint]:
        """Return the agent of each node.

        Raises:
            KubeError: nobody says.
        """
        with self._lock:
            now = self._monotonic()
            age = now - self._found_at
            if age < FOUND_FOR_SECONDS:
                return self._found
            has_just_failed = now - self._failed_at < FAILED_FOR_SECONDS
            if self._is_asking or has_just_failed:
                if age < SERVED_FOR_SECONDS:
                    return self._found
                said = self._failure if has_just_failed else "the API server is being asked"
                raise KubeUnavailable(0, "", said)
            self._is_asking = True
        try:
            return self._ask()
        except KubeError as error:
            with self._lock:
                self._failed_at, self._failure = self._monotonic(), error.message
                if self._failed_at - self._found_at < SERVED_FOR_SECONDS:
                    return self._found
            raise
        finally:
            self._is_asking = False

    def _ask(self) -> dict[str, AgentEndpoint]:
        path = path_of("discovery.k8s.io/v1", "endpointslices", self._service.namespace)
        query = {"labelSelector": f"{SERVICE_LABEL}={self._service.name}"}
        found = endpoints_of(self._client.items(path, query))
        with self._lock:
            self._found, self._found_at = found, self._monotonic()
        return found
