"""The CustomResourceDefinition: a structural schema, every field described and bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.support.manifests import ONLY_THE_OPERATOR, WRONG_FILES
from zeus_operator.api.crd import custom_resource_definition, open_api_schema, schema_at
from zeus_operator.api.fields import DECIMAL_PATTERN
from zeus_operator.api.rules import RULES, SCHEDULE_PATTERN
from zeus_operator.api.status import ZeusJobStatus
from zeus_operator.api.structural import SchemaError, structural_schema
from zeus_operator.schedule import MACROS, ScheduleError, parse_schedule

Node = dict[str, Any]
TEMPLATE = "spec.workload.template.spec"
NOT_STRUCTURAL = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "const", "propertyNames"}


def nodes(schema: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield each part of a schema with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}" if path else name)
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], path + mark)


SCHEMA = open_api_schema()
OURS = [(path, node) for path, node in nodes(SCHEMA) if path.startswith(("spec", "status"))]


def test_the_schema_is_structural() -> None:
    assert [path for path, node in nodes(SCHEMA) if NOT_STRUCTURAL & node.keys()] == []
    allowed = {"object", "array", "string", "integer", "boolean"}
    assert {node["type"] for _, node in nodes(SCHEMA)} <= allowed, "floats among them"
    assert [path for path, node in nodes(SCHEMA) if node.get("additionalProperties") is False] == []


def test_every_field_is_described() -> None:
    fields = [(path, node) for path, node in OURS if not path.endswith(("[]", ".*"))]

    assert [path for path, node in fields if len(node.get("description", "")) < 4] == []


def test_every_value_is_bounded() -> None:
    def is_bounded(node: Node) -> bool:
        match node["type"]:
            case "string":
                return "enum" in node or "maxLength" in node
            case "integer":
                return "minimum" in node and "maximum" in node
            case "array":
                return "maxItems" in node
            case "object":
                return "properties" in node or "maxProperties" in node
        return True

    assert [path for path, node in OURS if not is_bounded(node)] == []


def test_every_list_says_how_it_is_merged_and_a_map_by_which_keys() -> None:
    lists = {path: node for path, node in OURS if node["type"] == "array"}

    assert [path for path, node in lists.items() if "x-kubernetes-list-type" not in node] == []
    assert lists["spec.batchSize.choices"]["x-kubernetes-list-type"] == "set"
    conditions = lists["status.conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_only_the_template_keeps_fields_that_are_not_known() -> None:
    key = "x-kubernetes-preserve-unknown-fields"

    assert [path for path, node in nodes(SCHEMA) if key in node] == [TEMPLATE]


def test_defaults_reach_fields_of_objects_that_are_left_out() -> None:
    assert schema_at(SCHEMA, "spec.power")["default"] == {"minPercent": 1, "maxPercent": 100}
    assert schema_at(SCHEMA, "spec.retry.maxAttempts")["default"] == 5
    assert "default" not in schema_at(SCHEMA, "spec.batchSize.learningRate")
    assert [path for path, node in nodes(SCHEMA["properties"]["status"]) if "default" in node] == []


def test_decimals_have_the_pattern_of_the_types() -> None:
    assert schema_at(SCHEMA, "spec.objective.metric.target")["pattern"] == DECIMAL_PATTERN
    assert "pattern" in schema_at(SCHEMA, "spec.objective.energyPreference")
    assert "pattern" in schema_at(SCHEMA, "spec.savings.controlFraction")


def test_columns_show_fields_that_there_are() -> None:
    version = custom_resource_definition()["spec"]["versions"][0]
    shown = [column["jsonPath"] for column in version["additionalPrinterColumns"]]

    for path in (p for p in shown if not p.startswith(".metadata")):
        plain = re.sub(r"\[[^]]*\]", "[]", path).removeprefix(".")
        assert plain in dict(nodes(SCHEMA)), path
    assert version["subresources"] == {"status": {}}


def test_it_fits_into_an_annotation_as_kubectl_apply_needs() -> None:
    assert len(json.dumps(custom_resource_definition())) < 128 * 1024


def test_a_model_with_a_float_is_refused_with_its_path() -> None:
    class Wrong(BaseModel):
        share: float

    with pytest.raises(SchemaError, match=r"Wrong\.share"):
        structural_schema(Wrong)


def test_a_model_of_the_status_needs_nothing_of_the_spec() -> None:
    assert structural_schema(ZeusJobStatus)["type"] == "object"


# The rules -----------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.field}: {rule.cel[:40]}")
def test_a_rule_names_fields_that_there_are(rule: Any) -> None:
    schema_at(SCHEMA, rule.at)
    schema_at(SCHEMA, rule.field)

    assert rule.field.startswith(rule.at)
    assert 0 < len(rule.message) <= 2048


@pytest.mark.parametrize("field", sorted({rule.field for rule in RULES if rule.check}))
def test_every_rule_that_has_two_halves_has_a_file_that_breaks_it(field: str) -> None:
    """`tests/cluster/test_api_validation.py` sends each of them to a real API server."""
    broken = [name for name, (_, path, _) in WRONG_FILES.items() if path == field]

    assert set(broken) - ONLY_THE_OPERATOR


# The shape of a schedule ---------------------------------------------------------

_VALUE = st.integers(0, 60).map(str) | st.sampled_from(["JAN", "dec", "SUN", "Fri", "L", "LW", ""])
_ITEM = st.one_of(
    st.just("*"),
    _VALUE,
    st.tuples(_VALUE, _VALUE).map("-".join),
    st.tuples(st.sampled_from(["*", "1-5", "3"]), st.integers(0, 70).map(str)).map("/".join),
    st.tuples(_VALUE, st.integers(0, 6).map(str)).map("#".join),
    _VALUE.map(lambda value: f"{value}L"),
)
_FIELD = st.lists(_ITEM, min_size=1, max_size=3).map(",".join)
_SCHEDULE = st.lists(_FIELD, min_size=5, max_size=5).map(" ".join) | st.sampled_from([*MACROS])


def is_taken(schedule: str) -> bool:
    try:
        parse_schedule(schedule)
    except (ScheduleError, AssertionError):
        return False
    return True


@given(_SCHEDULE)
def test_the_api_server_takes_every_schedule_that_the_operator_takes(schedule: str) -> None:
    if is_taken(schedule):
        assert re.search(SCHEDULE_PATTERN, schedule)


@pytest.mark.parametrize("field", range(5))
@given(value=_ITEM)
def test_a_single_wrong_field_is_seen_by_both(field: int, value: str) -> None:
    fields = ["*"] * 5
    fields[field] = value
    schedule = " ".join(fields)
    ends_early = "-" in value
    never_comes = field in (2, 3)

    if not (ends_early or never_comes):
        assert bool(re.search(SCHEDULE_PATTERN, schedule)) == is_taken(schedule), schedule


@pytest.mark.parametrize(
    "schedule", ["", "* * * *", "* * * * * *", "TZ=UTC 0 2 * * *", "@every 5m", "60 * * * *", "@"]
)
def test_what_is_no_schedule_is_refused_by_both(schedule: str) -> None:
    assert not re.search(SCHEDULE_PATTERN, schedule)
    assert not is_taken(schedule)
