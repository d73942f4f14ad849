"""The CustomResourceDefinition of ZeusJob, made from its models and rules.  Pure."""

from __future__ import annotations

from typing import Any

from zeus_operator import names
from zeus_operator.api.rules import RULES, Rule
from zeus_operator.api.status import ZeusJobStatus
from zeus_operator.api.structural import Schema, structural_schema
from zeus_operator.api.types import ZeusJob, ZeusJobSpec

SINGULAR = "zeusjob"
SHORT_NAME = "zj"
CATEGORY = "ml"

_DESCRIPTION = (
    "A ZeusJob is a recurring training job: the same code on new data, again and again. For each "
    "run the operator chooses the batch size and the GPU power limit that are expected to cost "
    "least, by what it learned from the runs before, and creates the run as an ordinary workload."
)


def _column(name: str, path: str, description: str, kind: str = "string", **more: Any) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, **more}


PRINTER_COLUMNS = (
    _column("Schedule", ".spec.schedule", "When a recurrence is due."),
    _column("Suspended", ".spec.suspend", "Whether new recurrences are held back.", "boolean"),
    _column(
        "Ready",
        '.status.conditions[?(@.type=="Ready")].status',
        "Whether the job is valid and its runs can be created.",
    ),
    _column("Last Outcome", ".status.lastOutcome", "How the last recurrence ended."),
    _column(
        "Batch Size", ".status.best.batchSize", "The best batch size known, in samples.", "integer"
    ),
    _column(
        "Savings %", ".status.savings.costPercent", "Cost saved against always running the default."
    ),
    _column(
        "Active", ".status.active[0].state", "Where the oldest open recurrence stands.", priority=1
    ),
    # Not of type date: kubectl shows a time to come as <invalid>.
    _column("Next", ".status.nextScheduleTime", "When the next one is due, in UTC.", priority=1),
    _column("Age", ".metadata.creationTimestamp", "Since when it exists.", "date"),
)


def custom_resource_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition as a manifest."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [*PRINTER_COLUMNS],
                    "schema": {"openAPIV3Schema": open_api_schema()},
                }
            ],
        },
    }


def open_api_schema() -> Schema:
    """Return the schema of a whole ZeusJob with its rules."""
    own = ZeusJob.model_json_schema(by_alias=True)["properties"]
    schema: Schema = {
        "description": _DESCRIPTION,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": own["apiVersion"]["description"]},
            "kind": {"type": "string", "description": own["kind"]["description"]},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": structural_schema(ZeusJobSpec),
            "status": structural_schema(ZeusJobStatus),
        },
    }
    for rule in RULES:
        node = schema_at(schema, rule.at)
        node.setdefault("x-kubernetes-validations", []).append(validation(rule))
    return schema


def schema_at(schema: Schema, path: str) -> Schema:
    """Return the part of `schema` that describes the field at `path`; "" is the whole."""
    for name in path.split(".") if path else ():
        schema = schema["properties"][name]
    return schema


def validation(rule: Rule) -> Schema:
    """Return `rule` as an entry of `x-kubernetes-validations`."""
    result = {"rule": rule.cel, "message": rule.message}
    if rule.message_cel:
        result["messageExpression"] = rule.message_cel
    if rule.field != rule.at:
        result["fieldPath"] = rule.field.removeprefix(rule.at) if rule.at else f".{rule.field}"
    return result
