"""The child's pod template: finding the container that trains and what it runs.  Pure.

The template is a free mapping (the API server knows its schema, we need only a
few of its fields), so everything read from it is checked here, and every
finding carries the path of the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zeus_operator.api.problems import Problem, TemplateError
from zeus_operator.api.types import ZeusJobSpec
from zeus_operator.workloads.base import SPEC_PATH, PodTemplate
from zeus_operator.workloads.registry import KINDS

__all__ = ["SPEC_PATH", "Problem", "TemplateError"]

CONTAINER_PATH = "spec.workload.container"
POD_PATH = f"{SPEC_PATH}.template.spec"
GPU_RESOURCE = "nvidia.com/gpu"

# What the API server says as well (`admission`), in the same words.
REQUIRED = "is required"
NOT_A_LIST = "must be a list of strings"
NOT_TEXT = 'must be a string; quote it: "{value}"'
NO_CONTAINERS = "must be a list with at least one container"
NO_SUCH_CONTAINER = "names no container of the template; it has: {listed}"
AMBIGUOUS_CONTAINER = (
    "is required here, because {who} of the containers asks for " + GPU_RESOURCE + "; allowed: "
    "{listed}"
)


@dataclass(frozen=True)
class EnvEntry:
    """One entry of `env`; `value` is None where it comes from elsewhere (`valueFrom`)."""

    name: str
    value: str | None


@dataclass(frozen=True)
class TrainingContainer:
    """The container that trains.

    Args:
        index: its place in `containers`.
        gpu_count: its limit of `nvidia.com/gpu`; 0 if it has none.
        env_from: whether it takes whole ConfigMaps or Secrets as environment.
        termination_grace_period_seconds: of its pod.
        own_path: of it in the manifest; "": where a Job has it.
    """

    index: int
    name: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[EnvEntry, ...]
    gpu_count: int
    env_from: bool = False
    working_dir: str | None = None
    termination_grace_period_seconds: int = 30
    own_path: str = ""

    @property
    def path(self) -> str:
        """Return the path of the container in the manifest."""
        return self.own_path or f"{POD_PATH}.containers[{self.index}]"


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TemplateError(path, f"must be a mapping, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def _required(parent: Mapping[str, Any], key: str, path: str) -> Any:
    if parent.get(key) is None:
        raise TemplateError(f"{path}.{key}", REQUIRED)
    return parent[key]


def child_spec(spec: ZeusJobSpec) -> Mapping[str, Any]:
    """Return the child's own spec."""
    return spec.workload.template.spec


def pod_templates(spec: ZeusJobSpec) -> tuple[PodTemplate, ...]:
    """Return the child's pod templates, that of rank 0 first.

    Raises:
        TemplateError: there is none.
    """
    return KINDS[spec.workload.kind].pod_templates(child_spec(spec))


def _strings(container: Mapping[str, Any], key: str, path: str) -> tuple[str, ...]:
    values = container.get(key)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise TemplateError(f"{path}.{key}", NOT_A_LIST)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise TemplateError(f"{path}.{key}[{index}]", NOT_TEXT.format(value=_yaml(value)))
    return tuple(values)


def _yaml(value: Any) -> str:
    """Return a scalar as it stands in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _env(container: Mapping[str, Any], path: str) -> tuple[EnvEntry, ...]:
    entries = container.get("env")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise TemplateError(f"{path}.env", "must be a list of {name, value}")
    found = []
    for index, raw in enumerate(entries):
        here = f"{path}.env[{index}]"
        entry = _mapping(raw, here)
        name = _required(entry, "name", here)
        if not isinstance(name, str) or not name or "=" in name:
            raise TemplateError(f"{here}.name", f"must be the name of a variable, not {name!r}")
        value = entry.get("value")
        if value is not None and not isinstance(value, str):
            raise TemplateError(f"{here}.value", NOT_TEXT.format(value=_yaml(value)))
        elsewhere = value is None and entry.get("valueFrom") is not None
        found.append(EnvEntry(name, None if elsewhere else value or ""))
    return tuple(found)


def environments(template: PodTemplate) -> Iterator[tuple[str, tuple[EnvEntry, ...]]]:
    """Yield (path, env) of all containers of a pod, init containers included.

    Raises:
        TemplateError: one is no container, or its `env` can't be read.
    """
    pod = template.template["spec"]
    for field in ("initContainers", "containers"):
        containers = pod.get(field) or []
        if not isinstance(containers, list):
            raise TemplateError(f"{template.pod_path}.{field}", "must be a list of containers")
        for index, raw in enumerate(containers):
            path = template.container_path(index, field)
            yield path, _env(_mapping(raw, path), path)


def pod_labels(template: PodTemplate) -> tuple[str, Mapping[str, Any]]:
    """Return the labels of a template's pods, and their path.

    Raises:
        TemplateError: something else is there.
    """
    path = f"{template.path}.metadata"
    metadata = _mapping(template.template.get("metadata") or {}, path)
    return f"{path}.labels", _mapping(metadata.get("labels") or {}, f"{path}.labels")


def _gpu_count(container: Mapping[str, Any], path: str) -> int:
    resources = _mapping(container.get("resources") or {}, f"{path}.resources")
    limits = _mapping(resources.get("limits") or {}, f"{path}.resources.limits")
    value = limits.get(GPU_RESOURCE, 0)
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or int(text) > 1024:
        raise TemplateError(
            f'{path}.resources.limits["{GPU_RESOURCE}"]',
            f"must be a whole number of GPUs, not {value!r}",
        )
    return int(text)


def training_container(spec: ZeusJobSpec) -> TrainingContainer:
    """Return the container that trains in the pod of rank 0.

    It is the one named, else the one that asks for GPUs.

    Raises:
        TemplateError: a needed field is missing or wrong, or it is ambiguous
            which container trains.
    """
    return container_in(pod_templates(spec)[0], spec.workload.container)


def container_in(template: PodTemplate, wanted: str | None) -> TrainingContainer:
    """Return the container of a pod that trains.

    Args:
        wanted: its name; None: the one that asks for GPUs.

    Raises:
        TemplateError: as `training_container`.
    """
    pod = template.template["spec"]
    path = template.pod_path
    containers = _required(pod, "containers", path)
    if not isinstance(containers, list) or not containers:
        raise TemplateError(f"{path}.containers", NO_CONTAINERS)
    names = []
    for index, raw in enumerate(containers):
        here = template.container_path(index)
        name = _required(_mapping(raw, here), "name", here)
        if not isinstance(name, str):
            raise TemplateError(f"{here}.name", f"must be a string, not {name!r}")
        names.append(name)
    index = _select(wanted, containers, names, template)
    container, here = containers[index], template.container_path(index)
    grace = pod.get("terminationGracePeriodSeconds", 30)
    if isinstance(grace, bool) or not isinstance(grace, int) or grace < 0:
        raise TemplateError(
            f"{path}.terminationGracePeriodSeconds", "must be a whole number of seconds"
        )
    working_dir = container.get("workingDir")
    if working_dir is not None and not isinstance(working_dir, str):
        raise TemplateError(f"{here}.workingDir", "must be a path")
    return TrainingContainer(
        index=index,
        name=names[index],
        command=_strings(container, "command", here),
        args=_strings(container, "args", here),
        env=_env(container, here),
        gpu_count=_gpu_count(container, here),
        env_from=bool(container.get("envFrom")),
        working_dir=working_dir,
        termination_grace_period_seconds=grace,
        own_path=here,
    )


def container_beside(template: PodTemplate, name: str) -> TrainingContainer | None:
    """Return the container that trains in a pod besides that of rank 0; None: none can be told.

    Args:
        name: of the one that trains with rank 0.

    Raises:
        TemplateError: a needed field is missing or wrong.
    """
    containers = template.template["spec"].get("containers")
    if not isinstance(containers, list):
        return container_in(template, None)
    names = [each.get("name") for each in containers if isinstance(each, Mapping)]
    if name in names:
        return container_in(template, name)
    return container_in(template, None) if len(names) == 1 else None


def _select(
    wanted: str | None,
    containers: list[Mapping[str, Any]],
    names: list[str],
    template: PodTemplate,
) -> int:
    listed = ", ".join(names)
    if wanted is not None:
        if wanted not in names:
            raise TemplateError(CONTAINER_PATH, NO_SUCH_CONTAINER.format(listed=listed))
        return names.index(wanted)
    if len(containers) == 1:
        return 0
    asking = [
        index
        for index, container in enumerate(containers)
        if _gpu_count(container, template.container_path(index)) > 0
    ]
    if len(asking) != 1:
        who = "none" if not asking else "more than one"
        raise TemplateError(CONTAINER_PATH, AMBIGUOUS_CONTAINER.format(who=who, listed=listed))
    return asking[0]
