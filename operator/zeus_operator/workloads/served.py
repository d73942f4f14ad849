"""Which kinds of children this operator serves: allowed by its setting, and known to the cluster.

A kind whose definition is not installed is no reason to fail: it is told to whoever wants it, and
served once it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from zeus_operator.workloads.base import WorkloadKind
from zeus_operator.workloads.registry import JOB, KINDS

Refusal = tuple[str, str]
"""One word for programs, and words for people."""


class ServedKinds:
    """The kinds that are served.  Threads may share it.

    Args:
        allowed: kinds that a ZeusJob may have.
    """

    def __init__(self, allowed: Sequence[str] = (JOB.kind,)) -> None:
        self._allowed = tuple(kind for kind in KINDS.values() if kind.kind in allowed)
        self._lock = threading.Lock()
        # Every cluster has Jobs.
        self._installed = {kind.kind for kind in self._allowed if kind is JOB}

    def refusal(self, kind: str) -> Refusal | None:
        """Return why children of a kind are not served; None: they are."""
        adapter = KINDS[kind]
        if adapter not in self._allowed:
            names = ", ".join(each.kind for each in self._allowed)
            return (
                "WorkloadNotAllowed",
                f"spec.workload.kind: {kind} is not allowed here; allowed: {names}. Who runs the "
                f"operator can add it to the chart's value operator.workloads",
            )
        if adapter in self.missing:
            return (
                "WorkloadNotInstalled",
                f"spec.workload.kind: this cluster does not know {kind} of {adapter.api_version}; "
                "it is tried again once its CustomResourceDefinition is installed",
            )
        return None

    @property
    def allowed(self) -> tuple[WorkloadKind, ...]:
        """The kinds that a ZeusJob may have."""
        return self._allowed

    @property
    def served(self) -> tuple[WorkloadKind, ...]:
        """The kinds that are allowed and installed."""
        with self._lock:
            return tuple(kind for kind in self._allowed if kind.kind in self._installed)

    @property
    def missing(self) -> tuple[WorkloadKind, ...]:
        """The kinds that are allowed and not installed, as far as it is known."""
        with self._lock:
            return tuple(kind for kind in self._allowed if kind.kind not in self._installed)

    def look(self, is_known: Callable[[WorkloadKind], bool]) -> tuple[WorkloadKind, ...]:
        """Ask for the kinds that are missing, and return those that are there now.

        Args:
            is_known: whether the API server knows a kind; False also where it can't be asked, as
                that must not hide what is found of the others.
        """
        found = tuple(kind for kind in self.missing if is_known(kind))
        with self._lock:
            self._installed |= {kind.kind for kind in found}
        return found
