"""What a node's administrator allows: bounds and defaults by model, namespaces, sharing.

Pure.  `policy_file` reads it from a file.  Limits are milliwatts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace

from zeus_agent.limits import Bounds, Refused, Rules
from zeus_runtime.protocol import ErrorCode

BURST_OF_CHANGES = 20
"""Changes of one GPU's limit that may follow each other at once, whatever the rate."""


@dataclass(frozen=True)
class Amount:
    """A limit in watts, or in percent of the device's default limit.  Just one is given."""

    watts: float | None = None
    percent: float | None = None

    def milliwatts(self, default_milliwatts: int | None) -> int | None:
        """Return the limit; None: it is a part of a default that the device does not tell."""
        if self.watts is not None:
            return round(self.watts * 1000.0)
        if self.percent is None or default_milliwatts is None:
            return None
        return round(default_milliwatts * self.percent / 100.0)

    def __str__(self) -> str:
        return f"{self.watts:g} W" if self.watts is not None else f"{self.percent:g} %"


@dataclass(frozen=True)
class GpuRule:
    """What holds for the GPUs of some models.

    Args:
        model: shell pattern of NVML's name; upper and lower case are the same.
        minimum, maximum: bounds of what a lease may set; None: the device's.
        default: what holds while there is no lease; None: what is found.
    """

    model: str
    minimum: Amount | None = None
    maximum: Amount | None = None
    default: Amount | None = None

    def is_for(self, model: str) -> bool:
        """Whether the rule is for GPUs of this model."""
        return fnmatch.fnmatchcase(model.casefold(), self.model.casefold())


@dataclass(frozen=True)
class DeviceLimits:
    """What a GPU says of its limits.  None: it does not tell."""

    default_milliwatts: int | None = None
    bounds: Bounds | None = None


@dataclass(frozen=True)
class Policy:
    """The administrator's rules.  The default allows all that the device accepts.

    Args:
        allowed_namespaces, denied_namespaces: shell patterns; a denial wins.
        shares: limits of boards that others use too may be set.
        changes_per_minute: of one GPU's limit; None: any number.
        enable_persistence: persistence mode is on while a limit of ours is held.
        dry_run: decide, log, count and answer, and write nothing.
        gpus: the first one that is for a model holds.
    """

    allowed_namespaces: tuple[str, ...] = ("*",)
    denied_namespaces: tuple[str, ...] = ()
    shares: bool = False
    changes_per_minute: float | None = None
    enable_persistence: bool = False
    dry_run: bool = False
    gpus: tuple[GpuRule, ...] = ()

    def refusal(
        self,
        gpu_model: str,
        caller_namespace: str | None,
        shared: bool,
        device: DeviceLimits,
    ) -> Refused | None:
        """Return why a caller may have no lease of a GPU; None: it may.

        Within which bounds it may set a limit then, `rules_for` says.

        Args:
            gpu_model: NVML's name.
            caller_namespace: None: a process on this machine, which has none.
            shared: others use the board too.
            device: what the GPU says of its limits.
        """
        if caller_namespace is not None and not self.allows_namespace(caller_namespace):
            return Refused(
                ErrorCode.POLICY_DENIED,
                f"the node's policy lets no pod of namespace {caller_namespace!r} set power "
                "limits; the node's administrator can allow it",
                namespace=caller_namespace,
            )
        if shared and not self.shares:
            return Refused(
                ErrorCode.GPU_SHARED,
                "others use this GPU's board too (time-slicing or MIG), and a limit is the whole "
                "board's: the node's policy leaves it alone (sharedGpus: Deny)",
            )
        if self._has_bounds(gpu_model) and self.rules_for(gpu_model, device).allowed is None:
            return Refused(
                ErrorCode.POLICY_DENIED,
                f"the node's policy bounds {gpu_model} in percent of a default limit that this "
                "GPU does not tell; bound it in watts",
            )
        return None

    def allows_namespace(self, namespace: str) -> bool:
        """Whether pods of a namespace may set limits."""
        return _matches(namespace, self.allowed_namespaces) and not _matches(
            namespace, self.denied_namespaces
        )

    def rules_for(self, gpu_model: str, device: DeviceLimits) -> Rules:
        """Return what holds for one GPU."""
        rules = Rules(dry_run=self.dry_run, enable_persistence=self.enable_persistence)
        rule = self._rule(gpu_model)
        if rule is None:
            return rules
        default = device.default_milliwatts
        return replace(
            rules,
            allowed=_allowed(rule, device),
            default_milliwatts=None if rule.default is None else rule.default.milliwatts(default),
        )

    def _rule(self, gpu_model: str) -> GpuRule | None:
        return next((rule for rule in self.gpus if rule.is_for(gpu_model)), None)

    def _has_bounds(self, gpu_model: str) -> bool:
        rule = self._rule(gpu_model)
        return rule is not None and (rule.minimum is not None or rule.maximum is not None)


def _allowed(rule: GpuRule, device: DeviceLimits) -> Bounds | None:
    """Return a rule's bounds on a device; None: it has none, or they are not known here."""
    if rule.minimum is None and rule.maximum is None:
        return None
    default = device.default_milliwatts
    low = None if rule.minimum is None else rule.minimum.milliwatts(default)
    high = None if rule.maximum is None else rule.maximum.milliwatts(default)
    if (rule.minimum is not None and low is None) or (rule.maximum is not None and high is None):
        return None
    if low is None:
        low = 0 if device.bounds is None else device.bounds.min_milliwatts
    if high is None:
        high = low if device.bounds is None else max(low, device.bounds.max_milliwatts)
    # Percent and watts together may cross on some device: the lower of two maxima is the safe one.
    return Bounds(min(low, high), high)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
