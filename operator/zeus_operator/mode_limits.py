"""The most that a ZeusJob's mode may be, by its namespace: a setting of the operator.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from zeus_operator.plan_spec import JobPlanSpec, Mode
from zeus_operator.records import JobRecord


class NamespaceMode(NamedTuple):
    """The most that is allowed in some namespaces.

    Args:
        namespace: a name, or a pattern with `*` and `?`.
    """

    namespace: str
    mode: Mode


@dataclass(frozen=True)
class ModeLimits:
    """What is allowed where.

    Args:
        default: where no pattern fits.
        by_namespace: the first one that fits counts.
    """

    default: Mode = Mode.OPTIMIZE
    by_namespace: tuple[NamespaceMode, ...] = ()

    def most(self, namespace: str) -> Mode:
        """Return the most that ZeusJobs of `namespace` may do."""
        fitting = (each for each in self.by_namespace if fnmatchcase(namespace, each.namespace))
        found = next(fitting, None)
        return self.default if found is None else found.mode

    def spec_of(self, job: JobRecord) -> JobPlanSpec:
        """Return the spec of a job, its mode cut to what is allowed."""
        return JobPlanSpec.from_document(job.spec).with_mode_at_most(self.most(job.namespace))
