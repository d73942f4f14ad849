"""What the admission policy knows of the kinds of children, as CEL.  Pure.

Where the pod templates of a child are, and what is refused of one kind alone.  Each rule is said
again in Python by the adapters in `workloads`, with the same words.
"""

from __future__ import annotations

import json

from zeus_operator.api import template as words
from zeus_operator.api.template import SPEC_PATH
from zeus_operator.workloads import jobset, pytorchjob, trainjob
from zeus_operator.workloads.base import NO_RESTART
from zeus_operator.workloads.batch import ALL_AT_ONCE, RETRY_RULES

KIND = "object.spec.workload.kind"
_CHILD = "variables.child"
_REPLICAS = f"{_CHILD}.pytorchReplicaSpecs"
_ENTRIES = f"{_CHILD}.replicatedJobs"
_TRAINER = f"{_CHILD}.trainer"
_REFERENCE = f"{_CHILD}.runtimeRef"


def is_kind(*kinds: str) -> str:
    """Return CEL for whether the child is of one of these kinds."""
    return f"{KIND} in {json.dumps(list(kinds))}"


def holds(path: str, kind: str) -> str:
    """Return CEL for whether the field at `path` is there and of type `kind`."""
    return f"has({path}) && type({path}) == {kind}"


def child(parent: str, field: str, kind: str, otherwise: str) -> str:
    """Return CEL for `parent.field` if it is of type `kind`."""
    path = f"{parent}.{field}"
    return f"({holds(path, kind)} ? {path} : {otherwise})"


def is_said(path: str) -> str:
    """Return CEL for whether the field at `path` has a value, null being none."""
    return f"has({path}) && {path} != null"


_IN_ENTRY = (
    f"type(each) == map && {holds('each.template', 'map')} && {holds('each.template.spec', 'map')}"
)
_ENTRY_PATH = f"'{SPEC_PATH}.replicatedJobs[' + string(index) + '].template.spec'"
_REPLICA_PATH = f"'{SPEC_PATH}.pytorchReplicaSpecs.' + name"
_TEMPLATE = child("each.of", "template", "map", "{}")

VARIABLES = {
    "child": SPEC_PATH.replace("spec.", "object.spec.", 1),
    # What the templates are in, each with its path, that of rank 0 first.
    "holders": (
        f"{is_kind('Job')} ? [{{'path': dyn('{SPEC_PATH}'), 'of': dyn({_CHILD})}}] : "
        f"{is_kind('JobSet')} ? {child(_CHILD, 'replicatedJobs', 'list', '[]')}"
        f".transformList(index, each, {{'path': dyn({_ENTRY_PATH}), "
        f"'of': dyn({_IN_ENTRY} ? each.template.spec : {{}})}}) : "
        f"{is_kind('PyTorchJob')} ? ['Master', 'Worker'].filter(name, "
        f"{holds(_REPLICAS, 'map')} && name in {_REPLICAS} && {_REPLICAS}[name] != null)"
        f".map(name, {{'path': dyn({_REPLICA_PATH}), "
        f"'of': dyn(type({_REPLICAS}[name]) == map ? {_REPLICAS}[name] : {{}})}}) : []"
    ),
    "pods": (
        "variables.holders.map(each, {'path': dyn(each.path + '.template'), "
        f"'of': dyn({_TEMPLATE})}})"
    ),
    # A TrainJob has one container to say something of, and its runtime has the rest.
    "trainer": (
        f"{is_kind('TrainJob')} && {holds(_TRAINER, 'map')} "
        f"? [{{'path': dyn('{SPEC_PATH}.trainer'), 'of': dyn({_TRAINER})}}] : []"
    ),
}
"""Expressions by name; each may use those before it."""


def _refused(condition: str, path: str, message: str) -> dict[str, str]:
    """Return a validation that fails where `condition` holds.

    Args:
        path: of the field, below the child's spec.
    """
    return {"expression": f"!({condition})", "message": f"{SPEC_PATH}.{path}: {message}"}


def _of_each(items: str, path: str, condition: str, message: str) -> dict[str, str]:
    """Return a validation that fails where `condition` holds of `each` of the `items`.

    Args:
        path: of the field that is wrong, below that of the item.
    """
    found = f"{items}.filter(each, {condition})"
    said = f"each.path + {json.dumps(f'{path}: {message}')}"
    return {
        "expression": f"{found}.size() == 0",
        "messageExpression": f"{found}.map(each, {said}).join('; ')",
    }


def _job_fields() -> list[dict[str, str]]:
    found = []
    for rule in RETRY_RULES:
        at = f"each.of.{rule.field}"
        other = f"{is_said(at)} && !({at} in {json.dumps(list(rule.allowed))})"
        condition = f"{is_kind('JobSet')} && {other}"
        found.append(_of_each("variables.holders", f".{rule.field}", condition, rule.words))
    return found


def _all_at_once(field: str, other: str) -> dict[str, str]:
    """Return the validation of a Job's number of pods: one, or all ranks at the same time."""
    mode = "each.of.completionMode"
    # A JobSet's Jobs get the mode that they need where they do not say one.
    is_indexed = f"(has({mode}) ? {mode} == 'Indexed' : {is_kind('JobSet')})"
    at = f"each.of.{field}"
    several = f"type({at}) == int && {at} > 1"
    is_whole = f"{is_indexed} && {several} && has(each.of.{other}) && each.of.{other} == {at}"
    wrong = f"{is_said(at)} && {at} != 1 && !({is_whole})"
    return _of_each(
        "variables.holders",
        f".{field}",
        f"{is_kind('Job', 'JobSet')} && {wrong}",
        ALL_AT_ONCE.format(other=other),
    )


_RULES = f"{_CHILD}.failurePolicy.rules"
_FAILURE_RULES = (
    f"{holds(f'{_CHILD}.failurePolicy', 'map')} && {holds(_RULES, 'list')} "
    f"&& {_RULES}.exists(rule, type(rule) == map && has(rule.action) "
    f"&& rule.action == '{jobset.RESTARTS_FOR_EVER}')"
)
_SUCCESS = f"{_CHILD}.successPolicy"
_TARGETS = f"{_SUCCESS}.targetReplicatedJobs"
_HAS_TARGETS = (
    f"{holds(_SUCCESS, 'map')} && {holds(_TARGETS, 'list')} && {_TARGETS}.size() > 0 "
    f"&& {holds(_ENTRIES, 'list')} && {_ENTRIES}.size() > 0 && type({_ENTRIES}[0]) == map"
)
_FIRST_ENTRY = f"(has({_ENTRIES}[0].name) ? {_ENTRIES}[0].name : '')"
_NONE = {
    "JobSet": ("replicatedJobs", jobset.NO_ENTRIES),
    "PyTorchJob": ("pytorchReplicaSpecs", pytorchjob.NO_REPLICAS),
}


def validations() -> list[dict[str, str]]:
    """Return what is refused of one kind alone."""
    return [
        *(
            _refused(f"{is_kind(kind)} && variables.holders.size() == 0", field, message)
            for kind, (field, message) in _NONE.items()
        ),
        _all_at_once("parallelism", "completions"),
        _all_at_once("completions", "parallelism"),
        *_job_fields(),
        _refused(
            f"{is_kind('JobSet')} && {_FAILURE_RULES}",
            "failurePolicy.rules[].action",
            jobset.RESTARTS_REFUSED,
        ),
        _refused(
            f"{is_kind('JobSet')} && {holds(_SUCCESS, 'map')} && {is_said(f'{_SUCCESS}.operator')} "
            f"&& {_SUCCESS}.operator != 'All'",
            "successPolicy.operator",
            jobset.NOT_ALL,
        ),
        _refused(
            f"{is_kind('JobSet')} && {_HAS_TARGETS} && !({_FIRST_ENTRY} in {_TARGETS})",
            "successPolicy.targetReplicatedJobs",
            jobset.NOT_THE_FIRST.format(name="the first of replicatedJobs"),
        ),
        _of_each(
            "variables.holders",
            ".restartPolicy",
            f"{is_kind('PyTorchJob')} && {is_said('each.of.restartPolicy')} "
            "&& each.of.restartPolicy != 'Never'",
            NO_RESTART,
        ),
        # A Job's own is among the rules of its fields.
        _of_each(
            "variables.pods",
            ".spec.restartPolicy",
            f"!({is_kind('Job')}) && {holds('each.of.spec', 'map')} "
            f"&& {is_said('each.of.spec.restartPolicy')} && each.of.spec.restartPolicy != 'Never'",
            NO_RESTART,
        ),
        *_trainjob(),
    ]


def _trainjob() -> list[dict[str, str]]:
    is_one, refers = is_kind("TrainJob"), holds(_REFERENCE, "map")
    name, group, kind = (f"{_REFERENCE}.{field}" for field in ("name", "apiGroup", "kind"))
    kinds = json.dumps(["", trainjob.RUNTIME, trainjob.CLUSTER_RUNTIME])
    return [
        _refused(f"{is_one} && !({refers})", "runtimeRef", words.REQUIRED),
        _refused(
            f"{is_one} && {refers} && !({holds(name, 'string')} && {name} != '')",
            "runtimeRef.name",
            words.REQUIRED,
        ),
        _refused(
            f"{is_one} && {refers} && {is_said(group)} && {group} != '{trainjob.GROUP}'",
            "runtimeRef.apiGroup",
            trainjob.OTHER_GROUP,
        ),
        _refused(
            f"{is_one} && {refers} && {is_said(kind)} && !({kind} in {kinds})",
            "runtimeRef.kind",
            trainjob.OTHER_KIND,
        ),
        _refused(
            f"{is_one} && {is_said(_TRAINER)} && type({_TRAINER}) != map",
            "trainer",
            "must be a mapping",
        ),
        _refused(
            f"{is_one} && variables.trainer.exists(each, has(each.of.command) "
            f"&& each.of.command == {json.dumps(trainjob.TORCHTUNE)})",
            "trainer.command",
            trainjob.NO_TORCHTUNE,
        ),
    ]
