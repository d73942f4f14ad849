"""Whether the agent can do its work, and if not, what is missing.  Pure but for what it asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Check = Callable[[], str]
"""Returns "" if all is well, else one sentence that says what is missing."""


class Readiness:
    """Asks each check.

    Args:
        checks: of the parts that this agent has.
    """

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self._checks = checks

    def missing(self) -> list[str]:
        """Return what is missing; empty: the agent is ready."""
        return [sentence for sentence in (check() for check in self._checks) if sentence]


def gpus_expected(note: str, *, has_library: bool) -> str:
    """Return what to do on a node that should have GPUs and where none is seen.

    Args:
        note: why no GPU can be managed; "" if one can.
        has_library: NVML is there, and only shows no GPU.
    """
    if not note:
        return ""
    modes = (
        "the library is there but no device: set agent.nvidia.mode to runtimeClass or cdi, where "
        "NVIDIA's container runtime brings them, or keep hostPath with a privileged container"
        if has_library
        else "set agent.nvidia.mode to runtimeClass (NVIDIA's container runtime is installed), "
        "cdi (the same, and it shall use a CDI specification), or hostPath (only the driver is)"
    )
    return f"this node should have GPUs, but {note}; {modes}"
