"""The ValidatingAdmissionPolicy holds every rule about the template, in the words of the checks.

What it does is tried on a real API server in `tests/cluster/test_api_validation.py`.
"""

from __future__ import annotations

import pytest
import yaml

from tests.support.allowed_manifests import ALLOWED
from tests.support.manifests import WRONG_FILES
from zeus_operator.api.admission import admission_policy, sentence
from zeus_operator.api.checks import problems
from zeus_operator.api.template_rules import FIELD_RULES, JOB, FieldRule
from zeus_operator.api.types import ZeusJob


def test_every_rule_about_a_field_is_in_the_policy_and_has_a_file_that_breaks_it() -> None:
    policy, binding = admission_policy()
    said = [validation.get("message") for validation in policy["spec"]["validations"]]
    broken = {path for _, path, _ in WRONG_FILES.values()}

    for rule in FIELD_RULES:
        assert f"{rule.path}: {rule.words}" in said
        assert rule.path in broken, rule.path
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]


def test_it_looks_at_the_main_resource_only_where_its_spec_is_new() -> None:
    spec = admission_policy()[0]["spec"]

    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["zeusjobs"], "not zeusjobs/status"
    assert spec["matchConditions"][0]["expression"] == (
        "oldObject == null || object.spec != oldObject.spec"
    )


@pytest.mark.parametrize("what", ALLOWED)
def test_what_is_allowed_is_not_refused_by_the_checks(what: str) -> None:
    """The API server's half of this is in `tests/cluster/test_api_validation.py`."""
    assert problems(ZeusJob.model_validate(yaml.safe_load(ALLOWED[what]))) == []


@pytest.mark.parametrize(
    ("allowed", "value", "passes"),
    [
        ((0,), 0, True),
        ((0,), None, True),
        ((0,), 1, False),
        ((0,), False, False),
        ((False,), False, True),
        ((False,), 0, False),
        ((), {}, False),
        (("Never",), "OnFailure", False),
    ],
)
def test_a_field_may_have_the_values_that_its_rule_allows(
    allowed: tuple[int | str | bool, ...], value: object, passes: bool
) -> None:
    assert FieldRule(JOB, "field", allowed, "words").allows(value) is passes


def test_a_sentence_becomes_an_expression_with_its_values_in_place() -> None:
    assert sentence('the "{name}" is taken', name="entry.name") == (
        '"the \\"" + entry.name + "\\" is taken"'
    )
    assert sentence("{name}", name="x") == "x"
