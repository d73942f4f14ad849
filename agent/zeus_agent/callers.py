"""Who calls from a cluster.  Pure.

Each value is made from a token that the API server has reviewed, never from what a request says.
On one machine the caller is a process instead, see `sessions.Owner`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodCaller:
    """A pod that lives on this node.

    The UID tells it from a former or later pod of the same name.

    Args:
        service_account: its name in `namespace`.
    """

    namespace: str
    pod: str
    pod_uid: str
    service_account: str


@dataclass(frozen=True, slots=True)
class ServiceCaller:
    """A service account that was configured by name: the operator's.

    It may read reports, wherever its pod runs, and nothing else.
    """

    namespace: str
    service_account: str
