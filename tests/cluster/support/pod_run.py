"""A pod of a run, as what plays the training in it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zeus_operator.api.expand import expand_environment
from zeus_runtime import protocol

Object = dict[str, Any]


@dataclass(frozen=True)
class PodRun:
    """One pod.

    Attributes:
        manifest: as it was first seen.
        container: name of the container that trains: the one with a decision, else the first.
        environment: of that container, expanded as a kubelet does it; entries whose value comes
            from elsewhere (`valueFrom`) are left out.
    """

    manifest: Mapping[str, Any]
    container: str = field(init=False)
    environment: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        containers = self.manifest["spec"]["containers"]
        chosen = next((each for each in containers if _has_decision(each)), containers[0])
        entries = [
            (each["name"], each.get("value", ""))
            for each in chosen.get("env") or ()
            if "valueFrom" not in each
        ]
        object.__setattr__(self, "container", chosen["name"])
        object.__setattr__(self, "environment", expand_environment(entries))

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def labels(self) -> Mapping[str, str]:
        return self.manifest["metadata"].get("labels") or {}

    @property
    def job(self) -> str:
        """`namespace/name` of the ZeusJob."""
        return self.environment[protocol.ENV_JOB]

    @property
    def recurrence(self) -> str:
        """Id of the recurrence."""
        return self.environment[protocol.ENV_RECURRENCE]

    @property
    def attempt(self) -> str:
        """Number of the attempt in its recurrence."""
        return self.environment[protocol.ENV_ATTEMPT]

    @property
    def batch_size(self) -> int:
        return int(self.environment[protocol.ENV_BATCH_SIZE])

    @property
    def decision(self) -> protocol.Decision:
        """What the operator decided for this run."""
        return protocol.Decision.from_json(self.environment[protocol.ENV_DECISION])

    @property
    def result_bytes(self) -> int:
        """Length of the result's file."""
        given = self.environment.get(protocol.ENV_RESULT_BYTES)
        return int(given) if given else protocol.RESULT_DEFAULT_BYTES


def _has_decision(container: Mapping[str, Any]) -> bool:
    return any(each["name"] == protocol.ENV_DECISION for each in container.get("env") or ())
