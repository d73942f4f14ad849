"""An Indexed Job: its pods are the ranks of one run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import api_objects as api
from tests.support.workloads import job_of, made_of, pod_template, said_of
from zeus_operator.api.template import TemplateError
from zeus_operator.workloads.batch import END_WITH_A_DISTURBED_POD
from zeus_operator.workloads.registry import JOB

SPEC = "spec.workload.template.spec"


def ranks(**fields: Any) -> dict[str, Any]:
    return {
        "parallelism": 2,
        "completions": 2,
        "completionMode": "Indexed",
        "template": pod_template(),
        **fields,
    }


def test_as_many_pods_as_indices_at_the_same_time_are_a_run() -> None:
    job = job_of("Job", ranks())

    assert said_of(job) == {}
    child = made_of(job).child["spec"]
    assert (child["parallelism"], child["completions"]) == (2, 2)
    assert child["podFailurePolicy"] == END_WITH_A_DISTURBED_POD
    assert child["backoffLimit"] == 0


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"completionMode": "NonIndexed"}, {"parallelism", "completions"}),
        ({"parallelism": 1}, {"completions"}),
        ({"completions": 4}, {"parallelism", "completions"}),
        ({"parallelism": 4}, {"parallelism", "completions"}),
    ],
    ids=["without indices", "in turn", "two at a time", "more than there are indices"],
)
def test_pods_that_are_not_the_ranks_of_one_run_are_refused(
    fields: dict[str, Any], wrong: set[str]
) -> None:
    said = said_of(job_of("Job", ranks(**fields)))

    assert set(said) == {f"{SPEC}.{field}" for field in wrong}
    assert all("all its ranks at the same time" in words for words in said.values())


def test_a_disturbed_rank_may_not_be_replaced_alone() -> None:
    rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}

    with pytest.raises(TemplateError, match="in a run of several pods"):
        made_of(job_of("Job", ranks(podFailurePolicy={"rules": [rule]})))


@pytest.mark.parametrize(("label", "index"), [("0", 0), ("3", 3), (None, 0), ("x", 0), ("-1", 0)])
def test_the_place_of_a_pod_is_its_completion_index(label: str | None, index: int) -> None:
    pod = api.pod()
    if label is not None:
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = label

    assert JOB.place_of(pod) == (0, 0, index)
