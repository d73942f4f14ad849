"""The ValidatingAdmissionPolicy that refuses a template at apply.  Pure.

The API server itself evaluates it: no webhook, no certificate, nothing that can be down.  What it
refuses is what `checks` refuses of the template, in the same words (`template_rules`); what CEL
can't say is found by the operator, which then says so in the condition Ready.  Of a TrainJob it
sees what that says itself: its pods are in its runtime.
"""

from __future__ import annotations

import json
import re
from typing import Any

from zeus_operator import names
from zeus_operator.api import admission_kinds as kinds
from zeus_operator.api import template as words
from zeus_operator.api import template_rules as rules
from zeus_operator.api.admission_kinds import child, holds, is_kind
from zeus_operator.api.template import GPU_RESOURCE
from zeus_operator.workloads.base import FieldRule, WorkloadKind
from zeus_operator.workloads.registry import KINDS
from zeus_operator.workloads.trainjob import NODE
from zeus_runtime import protocol

POLICY_NAME = f"zeus-operator-{names.PLURAL}"

_KNOWN = json.dumps(list(protocol.INJECTED_ENVIRONMENT))
_LEARNING_RATE = json.dumps(f"$({protocol.ENV_LEARNING_RATE})")
_UNKNOWN_PREFIX = json.dumps(f"$({protocol.ENV_PREFIX}")
_CONTAINER = "object.spec.workload.container"


def admission_policy() -> list[dict[str, Any]]:
    """Return the policy and its binding to all namespaces, as manifests."""
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": POLICY_NAME},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [names.GROUP],
                        "apiVersions": [names.VERSION],
                        "resources": [names.PLURAL],
                        "operations": ["CREATE", "UPDATE"],
                    }
                ]
            },
            "matchConditions": [
                # An object that was stored before a rule came can still be labelled and deleted.
                {
                    "name": "spec-is-new",
                    "expression": "oldObject == null || object.spec != oldObject.spec",
                }
            ],
            "variables": [
                {"name": name, "expression": expression} for name, expression in _VARIABLES.items()
            ],
            "validations": [*_field_validations(), *_VALIDATIONS, *kinds.validations()],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": POLICY_NAME},
        "spec": {"policyName": POLICY_NAME, "validationActions": ["Deny"]},
    }
    return [policy, binding]


def sentence(template: str, **values: str) -> str:
    """Return a CEL expression for `template`, each `{name}` being the CEL expression given."""
    parts = re.split(r"\{(\w+)\}", template)
    return " + ".join(
        values[part] if index % 2 else json.dumps(part) for index, part in enumerate(parts) if part
    )


_ASKS_FOR_GPU = (
    f"has(part.of.resources) && has(part.of.resources.limits) "
    f"&& '{GPU_RESOURCE}' in part.of.resources.limits "
    f"&& string(part.of.resources.limits['{GPU_RESOURCE}']) != '0'"
)


def _found(lists: str, field: str, condition: str, text: str) -> str:
    """Return CEL for the findings in the list `field` of the containers in `lists`.

    Args:
        lists: CEL for a list of lists of containers.
        condition: CEL that is true for a wrong `entry` at `index` of `part`.
        text: CEL for what is wrong with it: `path` up to the entry included.
    """
    of_part = f"part.of.{field}.transformList(index, entry, {condition}, {text}).join('; ')"
    return (
        f"{lists}.map(parts, parts.filter(part, {holds(f'part.of.{field}', 'list')})"
        f".map(part, {of_part}).filter(text, text != '').join('; ')).filter(text, text != '')"
    )


def _of_training(texts: str) -> str:
    """Return CEL for what is wrong with the containers that train.

    Args:
        texts: CEL for all that is wrong with `part`.
    """
    return (
        f"variables.trains.map(parts, parts.map(part, ({texts}).join('; '))"
        ".filter(text, text != '').join('; ')).filter(text, text != '')"
    )


def _at(field: str, more: str = "") -> str:
    return f"part.path + '.{field}[' + string(index) + ']{more}: '"


_TOKENS = r"findAll('\\$(\\$|\\([^)]*\\))')"


def _tokens(field: str, value: str, guard: str, more: str = "") -> str:
    """Return CEL for references in the strings of `field` that are not filled in."""
    name = "token.substring(2, token.size() - 1)"
    unknown = f"token.startsWith({_UNKNOWN_PREFIX}) && !({name} in {_KNOWN})"
    no_rate = f"token == {_LEARNING_RATE} && !has(object.spec.batchSize.learningRate)"
    unknown_words = sentence(rules.UNKNOWN_REFERENCE, reference="token", guess="''")
    rate_words = sentence(rules.NO_LEARNING_RATE, reference="token")
    bad = f"({unknown}) || ({no_rate})"
    texts = (
        f"{value}.{_TOKENS}.filter(token, {bad})"
        f".map(token, {_at(field, more)} + ({no_rate} ? {rate_words} : {unknown_words})).join('; ')"
    )
    return _found(
        "variables.trains", field, f"{guard} && {value}.{_TOKENS}.exists(token, {bad})", texts
    )


def _not_text(field: str, value: str, guard: str, more: str = "") -> str:
    """Return CEL for numbers and the like that should be in quotes."""
    said = sentence(words.NOT_TEXT, value=f"string({value})")
    types = " || ".join(f"type({value}) == {each}" for each in ("int", "double", "bool"))
    wrong = f"{guard}({types})"
    return _found("variables.trains", field, wrong, f"{_at(field, more)} + {said}")


_IS_TEXT = "type(entry) == string"
_HAS_NAME = "has(entry.name) && type(entry.name) == string"
_HAS_VALUE = "has(entry.value) && type(entry.value) == string"
_IS_TAKEN = f"entry.name.startsWith('{protocol.ENV_PREFIX}')"


def _restarts(field: str) -> str:
    after = f"index + 1 < part.of.{field}.size() ? string(part.of.{field}[index + 1]) : ''"
    value = f"(entry.contains('=') ? entry.substring(entry.indexOf('=') + 1) : {after}).trim()"
    return _found(
        "variables.trains",
        field,
        f"{_IS_TEXT} && entry.matches('{rules.MAX_RESTARTS_PATTERN}') && {value} != '0'",
        f"{_at(field)} + {sentence(rules.MAX_RESTARTS, word='entry')}",
    )


_IS_SPEC = holds("each.of.spec", "map")
_NAMED = "has(part.of.name) && part.of.name == "
_FIRST_NAME = (
    "(variables.training.size() == 1 && has(variables.training[0].of.name) "
    "? variables.training[0].of.name : '')"
)


def _listed(field: str) -> str:
    """Return CEL for the containers in `field` of each pod, each with its path."""
    whole = f"({_IS_SPEC} ? {child('each.of.spec', field, 'list', '[]')} : [])"
    path = f"each.path + '.spec.{field}[' + string(index) + ']'"
    return (
        f"variables.pods.map(each, {whole}.transformList(index, container, "
        f"type(container) == map, {{'path': dyn({path}), 'of': dyn(container)}}))"
    )


_VARIABLES = {
    **kinds.VARIABLES,
    # Of each pod those in its list, that of rank 0 first.
    "containers": f"{is_kind('TrainJob')} ? [variables.trainer] : {_listed('containers')}",
    "initContainers": _listed("initContainers"),
    "first": "variables.containers.size() > 0 ? variables.containers[0] : []",
    "names": (
        f"{is_kind('TrainJob')} ? ['{NODE}'] : "
        "variables.first.map(part, has(part.of.name) ? string(part.of.name) : '')"
    ),
    "asking": f"variables.first.filter(part, {_ASKS_FOR_GPU})",
    "training": (
        f"{is_kind('TrainJob')} && (!has({_CONTAINER}) || {_CONTAINER} in variables.names) "
        f"? variables.first : has({_CONTAINER}) "
        f"? variables.first.filter(part, {_NAMED}{_CONTAINER}) : "
        "variables.first.size() == 1 ? variables.first : variables.asking"
    ),
    # Beside rank 0 trains what has that name, or is alone.
    "trains": (
        "variables.containers.transformList(index, parts, index == 0 ? variables.training : "
        f"parts.exists(part, {_NAMED}{_FIRST_NAME}) "
        f"? parts.filter(part, {_NAMED}{_FIRST_NAME}) : parts.size() == 1 ? parts : [])"
    ),
    "takenLabels": (
        "variables.pods.filter(each, "
        f"{holds('each.of.metadata', 'map')} && {holds('each.of.metadata.labels', 'map')} "
        f"&& each.of.metadata.labels.exists(name, name.startsWith('{names.GROUP}/')))"
        f".map(each, each.path + {json.dumps(f'.metadata.labels: {rules.LABELS_TAKEN}')})"
    ),
    "takenNames": _found(
        "(variables.initContainers + variables.containers)",
        "env",
        f"{_HAS_NAME} && {_IS_TAKEN}",
        f"{_at('env', '.name')} + {sentence(rules.NAME_TAKEN, name='entry.name')} "
        f"+ (entry.name in {_KNOWN} ? {sentence(rules.NAME_TAKEN_HINT, name='entry.name')} : '')",
    ),
    "notLists": _of_training(
        "['command', 'args'].filter(field, field in part.of && part.of[field] != null "
        "&& type(part.of[field]) != list)"
        f".map(field, part.path + '.' + field + {json.dumps(f': {words.NOT_A_LIST}')})"
    ),
    "noCommands": _of_training(
        "(has(part.of.command) && type(part.of.command) == list && part.of.command.size() > 0 "
        f"? [] : [part.path + {json.dumps(f'.command: {rules.COMMAND_REQUIRED}')}])"
    ),
    "notTexts": " + ".join(
        (
            _not_text("env", "entry.value", "has(entry.value) && ", ".value"),
            _not_text("command", "entry", ""),
            _not_text("args", "entry", ""),
        )
    ),
    "restarts": f"{_restarts('command')} + {_restarts('args')}",
    "references": " + ".join(
        (
            _tokens("env", "entry.value", f"{_HAS_VALUE} && {_HAS_NAME} && !{_IS_TAKEN}", ".value"),
            _tokens("command", "entry", _IS_TEXT),
            _tokens("args", "entry", _IS_TEXT),
        )
    ),
}


def _field_validations() -> list[dict[str, str]]:
    return [_field_validation(kind, rule) for kind in KINDS.values() for rule in kind.rules]


def _field_validation(kind: WorkloadKind, rule: FieldRule) -> dict[str, str]:
    """Return the validation of a field's rule: absent, null, or one of what is allowed."""
    passes, at = [], "variables.child"
    for name in [part for part in (*rule.parent.split("."), rule.field) if part]:
        passes.append(f"type({at}) != map || !has({at}.{name})")
        at = f"{at}.{name}"
    passes.append(f"{at} == null")
    if rule.allowed:
        passes.append(f"{at} in {json.dumps(list(rule.allowed))}")
    is_other = f"!({is_kind(kind.kind)})"
    return {
        "expression": " || ".join((is_other, *passes)),
        "message": f"{rule.path}: {rule.words}",
    }


def _none_of(variable: str) -> dict[str, str]:
    return {
        "expression": f"variables.{variable}.size() == 0",
        "messageExpression": f"variables.{variable}.join('; ')",
    }


def _each_pod(condition: str, path: str, message: str) -> dict[str, str]:
    """Return a validation that fails where `condition` holds of `each` pod template."""
    found = f"variables.pods.filter(each, {condition})"
    said = f"each.path + {json.dumps(f'{path}: {message}')}"
    return {
        "expression": f"{found}.size() == 0",
        "messageExpression": f"{found}.map(each, {said}).join('; ')",
    }


_LISTED = "variables.names.join(', ')"
_VALIDATIONS = (
    {
        "expression": "variables.holders.all(each, has(each.of.template))",
        "messageExpression": (
            "variables.holders.filter(each, !has(each.of.template))"
            f".map(each, each.path + {json.dumps(f'.template: {words.REQUIRED}')}).join('; ')"
        ),
    },
    _each_pod("!has(each.of.spec)", ".spec", words.REQUIRED),
    _each_pod(
        f"has(each.of.spec) && !({_IS_SPEC} && {holds('each.of.spec.containers', 'list')} "
        "&& each.of.spec.containers.exists(container, type(container) == map))",
        ".spec.containers",
        words.NO_CONTAINERS,
    ),
    {
        "expression": "variables.first.size() == 0 || variables.training.size() == 1",
        "messageExpression": (
            f"'{words.CONTAINER_PATH}: ' + (has({_CONTAINER}) ? "
            f"{sentence(words.NO_SUCH_CONTAINER, listed=_LISTED)} : "
            + sentence(
                words.AMBIGUOUS_CONTAINER,
                who="(variables.asking.size() == 0 ? 'none' : 'more than one')",
                listed=_LISTED,
            )
            + ")"
        ),
    },
    {
        "expression": (
            "!has(object.spec.workload.injectRuntime) || !object.spec.workload.injectRuntime "
            # What a TrainJob does not say itself is in its runtime.
            f"|| {is_kind('TrainJob')} || variables.noCommands.size() == 0"
        ),
        "messageExpression": "variables.noCommands.join('; ')",
    },
    _none_of("takenLabels"),
    _none_of("notLists"),
    _none_of("notTexts"),
    _none_of("takenNames"),
    _none_of("restarts"),
    _none_of("references"),
)
