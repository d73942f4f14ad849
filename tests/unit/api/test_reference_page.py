"""The reference page and the other generated files are what the types say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from zeus_operator.api import docs
from zeus_operator.api.reference import reference
from zeus_operator.api.rules import RULES
from zeus_operator.api.types import ZeusJob
from zeus_runtime import protocol


@pytest.mark.parametrize("name", docs.GENERATED)
def test_the_generated_files_in_the_repository_are_current(name: str) -> None:
    file = Path(__file__).parents[3] / name

    assert file.read_text(encoding="utf-8") == docs.GENERATED[name](), "run `make docs`"


def test_manifests_name_their_source_and_hold_no_alias() -> None:
    for name, text in docs.GENERATED.items():
        if name.endswith(".yaml"):
            assert text().startswith("# Generated from ")
            assert all(isinstance(item, dict) for item in yaml.safe_load_all(text()))
            assert not re.search(r"^\s*(- )?\S+: [&*]id\d", text(), re.MULTILINE)


def test_every_field_has_a_description_and_every_injected_name_is_listed() -> None:
    schema = ZeusJob.model_json_schema(by_alias=True)
    models = [schema, *(d for d in schema["$defs"].values() if "properties" in d)]
    missing = [
        (model["title"], name)
        for model in models
        for name, field in model["properties"].items()
        if not field.get("description")
    ]
    page = reference()

    assert missing == []
    assert all(f"`{name}`" in page for name in protocol.INJECTED_ENVIRONMENT)


def test_no_field_is_a_float_and_every_number_and_list_is_bounded() -> None:
    def nodes(value: object) -> list[dict[str, object]]:
        if isinstance(value, dict):
            return [value, *(n for item in value.values() for n in nodes(item))]
        return [n for item in value for n in nodes(item)] if isinstance(value, list) else []

    found = nodes(ZeusJob.model_json_schema(by_alias=True))

    assert all(node.get("type") != "number" for node in found)
    integers = [node for node in found if node.get("type") == "integer"]
    assert integers
    assert all("minimum" in node and "maximum" in node for node in integers)
    assert all("maxItems" in node for node in found if node.get("type") == "array")


def test_the_page_holds_every_rule_and_the_status() -> None:
    page = reference()

    assert all(rule.message in page for rule in RULES)
    assert "## `status.conditions[]`" in page


def test_the_check_fails_on_a_file_that_is_not_current(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check, write = ["--check", "--root", str(tmp_path)], ["--write", "--root", str(tmp_path)]
    crd = tmp_path / "crds/zeusjobs.yaml"

    assert docs.main(check) == 1
    assert docs.main(write) == 0
    assert docs.main(check) == 0
    crd.write_text(crd.read_text() + "changed: true\n")
    capsys.readouterr()
    assert docs.main(check) == 1
    said = capsys.readouterr().err
    assert said == "crds/zeusjobs.yaml is not what its source says: run `make docs`\n"
