"""Which container trains, and what it runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.histories import SPEC
from zeus_operator.api.template import EnvEntry, TemplateError, training_container
from zeus_operator.api.types import ZeusJobSpec


def spec_with(containers: list[dict[str, Any]], name: str | None = None, **pod: Any) -> ZeusJobSpec:
    template = {"spec": {"template": {"spec": {"containers": containers, **pod}}}}
    workload = {"template": template} | ({"container": name} if name else {})
    return ZeusJobSpec.model_validate({**SPEC, "workload": workload})


def container(name: str, gpus: Any = None, **fields: Any) -> dict[str, Any]:
    limits = {} if gpus is None else {"resources": {"limits": {"nvidia.com/gpu": gpus}}}
    return {"name": name, **limits, **fields}


def test_the_only_container_trains_with_or_without_a_gpu() -> None:
    assert training_container(spec_with([container("a")])).gpu_count == 0
    assert training_container(spec_with([container("a", gpus="2")])).gpu_count == 2


def test_of_several_containers_the_one_that_asks_for_gpus_trains() -> None:
    found = training_container(spec_with([container("side"), container("train", gpus=1)]))

    assert (found.index, found.name) == (1, "train")


def test_a_named_container_trains_whatever_the_others_ask_for() -> None:
    found = training_container(spec_with([container("a", gpus=1), container("b")], name="b"))

    assert found.name == "b"


@pytest.mark.parametrize("gpus", [None, 1])
def test_an_ambiguous_template_is_refused_with_the_names(gpus: int | None) -> None:
    with pytest.raises(TemplateError, match=r"spec.workload.container: .*allowed: a, b"):
        training_container(spec_with([container("a", gpus), container("b", gpus)]))


def test_command_environment_and_grace_period_are_read() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "EMPTY"}, {"name": "S", "valueFrom": {"x": {}}}]
    found = training_container(
        spec_with(
            [container("a", command=["python"], args=["x"], env=env)],
            terminationGracePeriodSeconds=5,
        )
    )

    assert found.command + found.args == ("python", "x")
    assert found.env == (EnvEntry("A", "1"), EnvEntry("EMPTY", ""), EnvEntry("S", None))
    assert found.termination_grace_period_seconds == 5


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"command": "python train.py"}, "command"),
        ({"args": ["--epochs", 3]}, "args[1]"),
        ({"args": [True]}, "args[0]"),
        ({"env": {"A": "1"}}, "env"),
        ({"env": [{"value": "1"}]}, "env[0].name"),
        ({"env": ["A=1"]}, "env[0]"),
        ({"resources": []}, None),
        ({"resources": "many"}, "resources"),
        ({"resources": {"limits": {"nvidia.com/gpu": True}}}, 'resources.limits["nvidia.com/gpu"]'),
        ({"workingDir": 3}, "workingDir"),
    ],
)
def test_a_field_of_the_wrong_shape_is_named(fields: dict[str, Any], path: str | None) -> None:
    spec = spec_with([container("a", **fields)])
    if path is None:
        training_container(spec)
        return
    with pytest.raises(TemplateError) as caught:
        training_container(spec)
    assert caught.value.problem.path.endswith(f"containers[0].{path}")


@pytest.mark.parametrize(
    "template",
    [{}, {"template": None}, {"template": {"spec": {"containers": []}}}, {"template": 3}],
)
def test_a_template_without_containers_is_refused(template: dict[str, Any]) -> None:
    spec = ZeusJobSpec.model_validate({**SPEC, "workload": {"template": {"spec": template}}})

    with pytest.raises(TemplateError):
        training_container(spec)
