"""The ValidatingAdmissionPolicy that refuses a template at apply.  Pure.

The API server itself evaluates it: no webhook, no certificate, nothing that can be down.  What it
refuses is what `checks` refuses of the template, in the same words (`template_rules`); what CEL
can't say is found by the operator, which then says so in the condition Ready.
"""

from __future__ import annotations

import json
import re
from typing import Any

from zeus_operator import names
from zeus_operator.api import template as words
from zeus_operator.api import template_rules as rules
from zeus_operator.api.template import GPU_RESOURCE, LABELS_PATH, POD_PATH, SPEC_PATH
from zeus_runtime import protocol

POLICY_NAME = f"zeus-operator-{names.PLURAL}"

_KNOWN = json.dumps(list(protocol.INJECTED_ENVIRONMENT))
_LEARNING_RATE = json.dumps(f"$({protocol.ENV_LEARNING_RATE})")
_UNKNOWN_PREFIX = json.dumps(f"$({protocol.ENV_PREFIX}")


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
            "validations": [*_field_validations(), *_VALIDATIONS],
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


def _child(parent: str, field: str, kind: str, otherwise: str) -> str:
    """Return CEL for `parent.field` if it is of type `kind`."""
    path = f"{parent}.{field}"
    return f"has({path}) && type({path}) == {kind} ? {path} : {otherwise}"


def _listed(field: str) -> str:
    """Return CEL for the containers in `field`, each with its path."""
    whole = _child("variables.pod", field, "list", "[]")
    path = f"{json.dumps(f'{POD_PATH}.{field}[')} + string(index) + ']'"
    return (
        f"({whole}).transformList(index, each, type(each) == map, "
        f"{{'path': dyn({path}), 'of': dyn(each)}})"
    )


_ASKS_FOR_GPU = (
    f"has(part.of.resources) && has(part.of.resources.limits) "
    f"&& '{GPU_RESOURCE}' in part.of.resources.limits "
    f"&& string(part.of.resources.limits['{GPU_RESOURCE}']) != '0'"
)


def _found(parts: str, field: str, condition: str, text: str) -> str:
    """Return CEL for the findings in the list `field` of the containers `parts`.

    Args:
        condition: CEL that is true for a wrong `entry` at `index` of `part`.
        text: CEL for what is wrong with it: `path` up to the entry included.
    """
    return (
        f"{parts}.filter(part, has(part.of.{field}) && type(part.of.{field}) == list)"
        f".map(part, part.of.{field}.transformList(index, entry, {condition}, {text})"
        ".join('; ')).filter(text, text != '')"
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
        "variables.training", field, f"{guard} && {value}.{_TOKENS}.exists(token, {bad})", texts
    )


def _not_text(field: str, value: str, guard: str, more: str = "") -> str:
    """Return CEL for numbers and the like that should be in quotes."""
    said = sentence(words.NOT_TEXT, value=f"string({value})")
    kinds = " || ".join(f"type({value}) == {kind}" for kind in ("int", "double", "bool"))
    wrong = f"{guard}({kinds})"
    return _found("variables.training", field, wrong, f"{_at(field, more)} + {said}")


_IS_TEXT = "type(entry) == string"
_HAS_NAME = "has(entry.name) && type(entry.name) == string"
_HAS_VALUE = "has(entry.value) && type(entry.value) == string"
_IS_TAKEN = f"entry.name.startsWith('{protocol.ENV_PREFIX}')"


def _restarts(field: str) -> str:
    after = f"index + 1 < part.of.{field}.size() ? string(part.of.{field}[index + 1]) : ''"
    value = f"(entry.contains('=') ? entry.substring(entry.indexOf('=') + 1) : {after}).trim()"
    return _found(
        "variables.training",
        field,
        f"{_IS_TEXT} && entry.matches('{rules.MAX_RESTARTS_PATTERN}') && {value} != '0'",
        f"{_at(field)} + {sentence(rules.MAX_RESTARTS, word='entry')}",
    )


_VARIABLES = {
    "job": SPEC_PATH.replace("spec.", "object.spec.", 1),
    "template": _child("variables.job", "template", "map", "{}"),
    "pod": _child("variables.template", "spec", "map", "{}"),
    "labels": (
        "has(variables.template.metadata) && type(variables.template.metadata) == map "
        "&& has(variables.template.metadata.labels) "
        "&& type(variables.template.metadata.labels) == map "
        "? variables.template.metadata.labels : {}"
    ),
    "containers": _listed("containers"),
    "initContainers": _listed("initContainers"),
    "names": "variables.containers.map(part, has(part.of.name) ? string(part.of.name) : '')",
    "asking": f"variables.containers.filter(part, {_ASKS_FOR_GPU})",
    "training": (
        "has(object.spec.workload.container) ? variables.containers.filter(part, "
        "has(part.of.name) && part.of.name == object.spec.workload.container) : "
        "variables.containers.size() == 1 ? variables.containers : variables.asking"
    ),
    "takenNames": _found(
        "(variables.initContainers + variables.containers)",
        "env",
        f"{_HAS_NAME} && {_IS_TAKEN}",
        f"{_at('env', '.name')} + {sentence(rules.NAME_TAKEN, name='entry.name')} "
        f"+ (entry.name in {_KNOWN} ? {sentence(rules.NAME_TAKEN_HINT, name='entry.name')} : '')",
    ),
    "notLists": (
        "['command', 'args'].filter(field, variables.training.exists(part, field in part.of "
        "&& part.of[field] != null && type(part.of[field]) != list))"
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
    found = []
    for rule in rules.FIELD_RULES:
        field = f"variables.{rule.parent}.{rule.field}"
        allowed = f" || {field} in {json.dumps(list(rule.allowed))}" if rule.allowed else ""
        found.append(
            {
                "expression": f"!has({field}) || {field} == null{allowed}",
                "message": f"{rule.path}: {rule.words}",
            }
        )
    return found


def _none_of(variable: str) -> dict[str, str]:
    return {
        "expression": f"variables.{variable}.size() == 0",
        "messageExpression": f"variables.{variable}.join('; ')",
    }


_LISTED = "variables.names.join(', ')"
_VALIDATIONS = (
    {
        "expression": "has(variables.job.template)",
        "message": f"{SPEC_PATH}.template: {words.REQUIRED}",
    },
    {
        "expression": "!has(variables.job.template) || has(variables.template.spec)",
        "message": f"{POD_PATH}: {words.REQUIRED}",
    },
    {
        "expression": "!has(variables.template.spec) || variables.containers.size() > 0",
        "message": f"{POD_PATH}.containers: {words.NO_CONTAINERS}",
    },
    {
        "expression": "variables.containers.size() == 0 || variables.training.size() == 1",
        "messageExpression": (
            f"'{words.CONTAINER_PATH}: ' + (has(object.spec.workload.container) ? "
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
            "|| variables.training.all(part, has(part.of.command) && "
            "type(part.of.command) == list && part.of.command.size() > 0)"
        ),
        "messageExpression": (
            f"variables.training[0].path + '.command: ' + {json.dumps(rules.COMMAND_REQUIRED)}"
        ),
    },
    {
        "expression": f"variables.labels.all(name, !name.startsWith('{names.GROUP}/'))",
        "message": f"{LABELS_PATH}: {rules.LABELS_TAKEN}",
    },
    {
        "expression": "variables.notLists.size() == 0",
        "messageExpression": (
            "variables.training[0].path + '.' + variables.notLists[0] + "
            f"{json.dumps(f': {words.NOT_A_LIST}')}"
        ),
    },
    _none_of("notTexts"),
    _none_of("takenNames"),
    _none_of("restarts"),
    _none_of("references"),
)
