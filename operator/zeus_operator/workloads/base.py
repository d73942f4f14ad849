"""What an adapter of a child kind is asked for.  Pure.

The template of a ZeusJob has the schema of its child's kind.  Everything that differs between the
kinds is here, so that the rest of the operator knows pod templates, ranks and ends only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zeus_operator.api.problems import Problem
from zeus_operator.workloads.labels import has_its_mark, is_controlled

Object = Mapping[str, Any]

SPEC_PATH = "spec.workload.template.spec"
JOB = ""
POD = "template.spec"

RETRY = "retries are the operator's: set spec.retry.maxAttempts instead"
NO_RESTART = f"must be Never or left out: one attempt is one execution, {RETRY}"
PRUNED = "owned: taken off; the child is removed once its result is stored"

Place = tuple[int, int, int]
"""Where a pod stands among those of its run: its template, its Job, its index; in order of rank."""

RANK_ZERO: Place = (0, 0, 0)


@dataclass(frozen=True)
class FieldRule:
    """A field of the template that has to be absent, or to have one of a few values.

    Args:
        parent: path of what holds it, below the child's spec; `JOB` and `POD` are those of a Job.
        allowed: values it may have; null and an absent field always pass.
        words: what the user is told.
    """

    parent: str
    field: str
    allowed: tuple[int | str | bool, ...]
    words: str

    @property
    def path(self) -> str:
        """Return the path of the field in the ZeusJob."""
        return ".".join(part for part in (SPEC_PATH, self.parent, self.field) if part)

    def allows(self, value: Any) -> bool:
        """Return whether the field may have `value`."""
        return value is None or any(
            value == each and isinstance(value, bool) == isinstance(each, bool)
            for each in self.allowed
        )

    def is_broken_by(self, spec: Object) -> bool:
        """Return whether the child's `spec` holds what is refused."""
        found: Any = spec
        for name in (*self.parent.split("."), self.field):
            if name:
                found = found.get(name) if isinstance(found, Mapping) else None
        return not self.allows(found)


@dataclass(frozen=True)
class FieldNote:
    """A row of the reference: fields, and what happens to them.

    Args:
        fields: in Markdown.
    """

    fields: str
    happens: str


@dataclass(frozen=True)
class PodTemplate:
    """A pod template of a child.

    Args:
        template: its `metadata` and `spec`.
        path: where it is, as the user is told it.
        group: its place among the templates of the child: 0 has rank 0.
        own_path: of its one container, where that is not in the list of a pod.
        is_partial: what is not said here comes from an object that the child refers to.
        more_containers: that the kind's controller adds to each of its pods.
        trains: whether its pods are ranks of the run; others are only labelled.
        restarts_elsewhere: the kind says beside the template whether pods restart.
    """

    template: Object
    path: str
    group: int = 0
    own_path: str = ""
    is_partial: bool = False
    more_containers: int = 0
    trains: bool = True
    restarts_elsewhere: bool = False

    def own(self) -> dict[str, Any]:
        """Return the template to be written to.

        Raises:
            TypeError: it is not part of a copy that the operator has made.
        """
        if not isinstance(self.template, dict):
            raise TypeError(f"{self.path} is somebody else's")
        return self.template

    @property
    def pod_path(self) -> str:
        """Return the path of the pod's spec."""
        return self.own_path or f"{self.path}.spec"

    def container_path(self, index: int, field: str = "containers") -> str:
        """Return the path of a container."""
        return self.own_path or f"{self.path}.spec.{field}[{index}]"


@dataclass(frozen=True)
class Source:
    """An object of the cluster that a child is made from besides the ZeusJob.

    Args:
        namespace: None: it belongs to the whole cluster.
    """

    api_version: str
    kind: str
    plural: str
    namespace: str | None
    name: str


@dataclass(frozen=True)
class Right:
    """What the operator may do besides to make children of a kind.

    Args:
        is_cluster_wide: the resource is in no namespace.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    is_cluster_wide: bool = False


@dataclass(frozen=True)
class Companion:
    """An object that has to be there before the child, and goes with it.

    Args:
        spec: its contents below `spec`.
    """

    api_version: str
    kind: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A child's spec with what the operator owns in place.

    Args:
        pods: its templates, that of rank 0 first; each may be written to, and is part of the
            spec or of the companion.
        name_characters: that the child's name may have, as names of pods are made from it; None:
            any name of a child will do.
    """

    pods: tuple[PodTemplate, ...]
    companion: Companion | None = None
    name_characters: int | None = None


class WorkloadKind(ABC):
    """The adapter of one kind.  What most kinds need not say has an answer here.

    Attributes:
        api_version: group and version, such as "batch/v1".
        kind: such as "Job".
        plural: by which the API server knows it, such as "jobs".
        notes: what happens to the fields, for the reference.
        rules: what is refused and can be said of one field alone.
        rights: what the operator needs to do besides with the children themselves.
        marks_executions: pods need a label to tell whose they are, as the child does not control
            them itself.
        companion: kind of what has to be there before a child; "": nothing has.
        fails_by_pods_alone: but for its deadline, and keeps those that have failed: where none has,
            one was deleted.
    """

    api_version: ClassVar[str]
    kind: ClassVar[str]
    plural: ClassVar[str]
    notes: ClassVar[tuple[FieldNote, ...]]
    rules: ClassVar[tuple[FieldRule, ...]] = ()
    rights: ClassVar[tuple[Right, ...]] = ()
    marks_executions: ClassVar[bool] = False
    companion: ClassVar[str] = ""
    fails_by_pods_alone: ClassVar[bool] = False

    @abstractmethod
    def pod_templates(self, spec: Object, /) -> tuple[PodTemplate, ...]:
        """Return the templates in the child's `spec`, that of rank 0 first.

        Raises:
            TemplateError: there is none.
        """

    @abstractmethod
    def problems(self, spec: Object, /) -> Iterator[Problem]:
        """Yield what is refused of the child's `spec` besides what `rules` say."""

    @abstractmethod
    def prepare(self, spec: dict[str, Any], source: Object | None, name: str, /) -> Prepared:
        """Put into `spec` what the operator owns, and return where the pods are.

        Args:
            source: what `source` has named, as the API server has it.
            name: that the child gets.

        Raises:
            TemplateError: it lacks what is needed or holds what is refused.
        """

    @abstractmethod
    def project(self, raw: Object) -> dict[str, Any]:
        """Return of a child what is read, in the shape that a Job has.

        Whatever the kind calls its end, the conditions here are Complete and Failed.
        """

    @abstractmethod
    def place_of(self, pod: Object) -> Place:
        """Return where a pod stands among those of its run."""

    def owns(self, child: Object, pod: Object, /) -> bool:
        """Return whether a pod is of this very child, and not of one before it."""
        return has_its_mark(child, pod) if self.marks_executions else is_controlled(child, pod)

    def source(self, spec: Object, namespace: str, /) -> Source | None:  # noqa: ARG002
        """Return what the child is made from besides its `spec`; None: nothing."""
        return None

    def without_companion(self, spec: dict[str, Any], template: Object, /) -> dict[str, Any]:  # noqa: ARG002
        """Return a prepared `spec` as it can be tried where its companion was not made.

        Args:
            template: the child's spec in the ZeusJob.
        """
        return spec

    def container(self) -> str | None:
        """Return the name that the container which trains must have; None: any."""
        return None

    def trains(self, pod: Object, /) -> bool:  # noqa: ARG002
        """Return whether a pod may be a rank of its run, which has results."""
        return True
