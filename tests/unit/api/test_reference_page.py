"""The reference page of ZeusJob is what the types say."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeus_operator.api import docs
from zeus_operator.api.types import ZeusJob
from zeus_runtime import protocol


def test_the_page_in_the_repository_is_current() -> None:
    page = Path(__file__).parents[3] / docs.PAGE

    assert page.read_text(encoding="utf-8") == docs.reference(), "run `make docs`"


def test_every_field_has_a_description_and_every_injected_name_is_listed() -> None:
    schema = ZeusJob.model_json_schema(by_alias=True)
    models = [schema, *(d for d in schema["$defs"].values() if "properties" in d)]
    missing = [
        (model["title"], name)
        for model in models
        for name, field in model["properties"].items()
        if not field.get("description")
    ]
    page = docs.reference()

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


def test_the_check_fails_on_a_page_that_is_not_current(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "zeusjob.md"

    assert docs.main(["--check", "--path", str(page)]) == 1
    assert docs.main(["--write", "--path", str(page)]) == 0
    assert docs.main(["--check", "--path", str(page)]) == 0
    page.write_text(page.read_text() + "changed\n")
    assert docs.main(["--check", "--path", str(page)]) == 1
    assert "run `make docs`" in capsys.readouterr().err
