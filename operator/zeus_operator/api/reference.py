"""The reference page of ZeusJob, made from its types, its rules and the adapters.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from zeus_operator.api.rules import RULES
from zeus_operator.api.status import ZeusJobStatus
from zeus_operator.api.types import API_VERSION, ZeusJob
from zeus_operator.workloads.registry import KINDS
from zeus_runtime import protocol

_HEAD = f"""\
<!-- Generated from the models and rules in operator/zeus_operator/api by `make docs`. -->
# ZeusJob

`{API_VERSION}`, short name `zj`. One object is one recurring training job. The same
file goes to `zeusctl run FILE` on one machine and to `kubectl apply` in a cluster.

Fractions and targets are decimals in quotes (`"0.97"`), as in every Kubernetes API; a bare `0.97`
is refused with the way to write it. An unknown field is refused, never ignored.
"""

_TEMPLATE = """\
## The child's template

`spec.workload.template.spec` is the spec of the child kind. What the operator does with its fields,
whatever the kind; paths are those within a pod's spec, for each of the templates that the kind has:

| field | what happens |
| --- | --- |
{common}
`zeus_runtime` runs in the pods of all ranks; the result of a run is that of its pod of rank 0.
Where nobody has one, what another rank knows counts as a partial result.

{kinds}
A kind besides Job needs the chart's value `operator.workloads`, and its own controller in the
cluster. Where one of them is missing, the condition `Ready` says so, and the ZeusJob goes on once
it is there.

In a cluster a ValidatingAdmissionPolicy (`deploy/admission-policy.yaml`) refuses these at
`kubectl apply`, in the words that `zeusctl` uses. It is part of the API server: no webhook, no
certificate. It looks at a ZeusJob only where its spec changes, and at all templates of its child.
The rest the operator finds at once, and says so in the condition `Ready`, for instance: what is in
a TrainJob's runtime, names of pods that get too long, a `podFailurePolicy` or a container's
`restartPolicy` that starts a run again, a `nodeSelector` for another GPU than `spec.gpu.product`,
more containers than leave room for a result, a schedule that never comes, whatever the API server
itself dislikes about the child.

On one machine only a Job of one pod runs. The container's `command` and `args` run as a process in
the manifest's folder, with the Python that runs `zeusctl`. The image, volumes and other containers
are not used; `valueFrom` and `envFrom` are refused there, because only a cluster can resolve them.
`nvidia.com/gpu` says how many GPUs the process sees.
"""

_COMMON = (
    ("`restartPolicy`", "owned: `Never`. `OnFailure` and `Always` are refused"),
    ("`--max-restarts` of a launcher, above 0", "refused, in `command` and `args`"),
    ("`env` names that begin with `ZEUS_`", "refused"),
    ("`$(ZEUS_…)` that is not in the table below", "refused"),
    (
        "labels of the pods that begin with `zeus.energy/`",
        "refused: the operator sets its own",
    ),
    ("`command`, with `injectRuntime: true`", "required: a launcher goes in front of it"),
    ("everything else", "passed on as it is"),
)

_RULES = """\
## Rules between fields

In a cluster the API server checks them at `kubectl apply`; `zeusctl` and the operator check the
same, but for what only the API server can: it alone knows what a change changes.
"""

_STATUS = """\
## What the operator says

`status` is written by the operator alone. It is a projection of its database: nothing is lost with
it, and nothing is read back from it. What is not known is left out.
"""

_ENVIRONMENT = {
    protocol.ENV_JOB: "`namespace/name` of the job",
    protocol.ENV_RECURRENCE: "id of the recurrence",
    protocol.ENV_ATTEMPT: "number of the attempt in its recurrence, from 1",
    protocol.ENV_BATCH_SIZE: "global batch size to train with, samples",
    protocol.ENV_LEARNING_RATE: "learning rate; only if `spec.batchSize.learningRate` is given",
    protocol.ENV_DECISION: "everything else that was decided, as JSON; read by the runtime",
    protocol.ENV_RESULT_PATH: "file that takes the result; written by the runtime",
    protocol.ENV_RESULT_BYTES: "length of that file, bytes",
    protocol.ENV_AGENT: "address of the agent that sets power limits",
    protocol.ENV_AGENT_CA: "certificates that sign the agent's own, where it is called by https",
    protocol.ENV_AGENT_TOKEN_FILE: "file of the pod's token for the agent",
}


def reference() -> str:
    """Return the page as Markdown."""
    spec, status = _sections(ZeusJob, ""), _sections(ZeusJobStatus, "status")
    return "\n".join([_HEAD, *spec, _rules(), _template(), _environment(), _STATUS, *status])


def _sections(model: type[BaseModel], path: str) -> Iterator[str]:
    root = model.model_json_schema(by_alias=True)
    return (_section(where, node, root) for where, node in _objects(root, root, path))


def _rules() -> str:
    rows = "".join(f"| `{rule.field}` | {rule.message} |\n" for rule in RULES)
    return f"{_RULES}\n| field | what is said where it is broken |\n| --- | --- |\n{rows}"


def _template() -> str:
    tables = []
    for kind in KINDS.values():
        rows = [(note.fields, note.happens) for note in kind.notes]
        tables.append(
            f"### {kind.kind} (`{kind.api_version}`)\n\n"
            f"| field | what happens |\n| --- | --- |\n{_rows(rows)}\n"
        )
    return _TEMPLATE.format(common=_rows(_COMMON), kinds="".join(tables))


def _rows(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"| {fields} | {happens} |\n" for fields, happens in pairs)


def _environment() -> str:
    rows = "".join(f"| `{name}` | {text} |\n" for name, text in _ENVIRONMENT.items())
    return (
        "## The environment of a run\n\nThese stand before the container's own `env`, so that "
        "`$(ZEUS_BATCH_SIZE)` works in `env`, `command` and `args`.\n\n"
        f"| name | value |\n| --- | --- |\n{rows}"
    )


def _objects(
    node: Mapping[str, Any], root: Mapping[str, Any], path: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every object with fields of its own, parents first, with its path."""
    yield path, node
    for name, field in node["properties"].items():
        target = _resolved(field, root)
        if "properties" in target:
            yield from _objects(target, root, f"{path}.{name}" if path else name)
        items = _resolved(target.get("items", {}), root)
        if "properties" in items:
            yield from _objects(items, root, f"{path}.{name}[]")


def _resolved(field: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a field refers to, an absent-able one (`X | null`) included."""
    for option in field.get("anyOf", ()):
        if option.get("type") != "null":
            return {**_resolved(option, root), **_own(field)}
    if "$ref" in field:
        definition: Mapping[str, Any] = root["$defs"][field["$ref"].rsplit("/", 1)[1]]
        return {**definition, **_own(field)}
    return field


def _own(field: Mapping[str, Any]) -> dict[str, Any]:
    return {key: field[key] for key in ("description", "default") if key in field}


def _section(path: str, node: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    required = set(node.get("required", ()))
    heading = f"## `{path}`" if path else "## Fields"
    rows = []
    for name, field in node["properties"].items():
        resolved = _resolved(field, root)
        default = _default(resolved, name in required)
        rows.append(
            f"| `{name}` | {_type(resolved, root)} | {default} | {resolved['description']} |\n"
        )
    return (
        f"{heading}\n\n| field | type | default | meaning |\n| --- | --- | --- | --- |\n"
        + "".join(rows)
    )


def _default(field: Mapping[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    if value is None or isinstance(value, (dict, list)):
        return ""
    shown = f'"{value}"' if field["type"] == "string" and "pattern" in field else value
    return f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"


def _type(field: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = field["type"]
    if kind == "integer":
        return f"whole number, {field['minimum']:,} to {field['maximum']:,}"
    if kind == "array":
        items = _type(_resolved(field["items"], root), root)
        return f"list of {field.get('minItems', 0)} to {field['maxItems']}: {items}"
    if kind == "object":
        return (
            "object"
            if "properties" in field or field.get("additionalProperties") is True
            else ("names and texts")
        )
    if kind == "string":
        limit = f", at most {field['maxLength']} characters" if "maxLength" in field else ""
        return ("decimal in quotes" if "[0-9]" in field.get("pattern", "") else "text") + limit
    return "true or false"
