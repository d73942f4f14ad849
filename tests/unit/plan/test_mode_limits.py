"""What the operator allows of spec.mode, by namespace, and what a job that asks for more does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.jobs import spec_document
from tests.support.plan_facts import JOB, ScriptedPolicy, facts, recurrence
from zeus_operator.control_share import next_kind
from zeus_operator.deciding import decide
from zeus_operator.mode_limits import ModeLimits, NamespaceMode
from zeus_operator.plan_spec import JobPlanSpec, Mode
from zeus_operator.records import RecurrenceKind

LIMITS = ModeLimits(
    Mode.RECOMMEND,
    (
        NamespaceMode("team-a", Mode.OPTIMIZE),
        NamespaceMode("team-*", Mode.OBSERVE),
        NamespaceMode("lab-?", Mode.OPTIMIZE),
    ),
)


@pytest.mark.parametrize(
    ("namespace", "most"),
    [
        ("team-a", Mode.OPTIMIZE),  # the first that fits, though another one does
        ("team-ab", Mode.OBSERVE),
        ("team-", Mode.OBSERVE),
        ("my-team-a", Mode.RECOMMEND),
        ("lab-1", Mode.OPTIMIZE),
        ("lab-10", Mode.RECOMMEND),
        ("default", Mode.RECOMMEND),
    ],
)
def test_the_first_pattern_that_fits_a_namespace_counts(namespace: str, most: Mode) -> None:
    assert LIMITS.most(namespace) is most


def test_without_a_setting_everything_is_allowed() -> None:
    assert ModeLimits().most("any") is Mode.OPTIMIZE


@pytest.mark.parametrize("asked", Mode)
@pytest.mark.parametrize("most", Mode)
def test_a_job_that_asks_for_more_gets_the_most_and_no_other_changes(
    asked: Mode, most: Mode
) -> None:
    job = replace(JOB, spec=spec_document(mode=asked.value))
    order = [Mode.OBSERVE, Mode.RECOMMEND, Mode.OPTIMIZE]

    found = ModeLimits(most).spec_of(job)

    mode = order[min(order.index(asked), order.index(most))]
    assert (found.mode, found.mode_asked) == (mode, None if mode is asked else asked)
    assert replace(found, mode=asked, mode_asked=None) == JobPlanSpec.from_document(job.spec)


@pytest.mark.parametrize(
    ("most", "asks_the_policy"), [(Mode.OBSERVE, False), (Mode.RECOMMEND, True)]
)
def test_a_decision_within_the_limit_says_that_there_is_one(
    most: Mode, asks_the_policy: bool
) -> None:
    policy = ScriptedPolicy(batch_size=32)
    spec = JobPlanSpec.from_document(spec_document()).with_mode_at_most(most)

    decided = decide(facts(), recurrence(1), spec, policy).decision

    assert (decided.batch_size, decided.policy, decided.optimize_power) == (64, "default", False)
    assert decided.sentence.startswith(
        f"The mode is {most}, the most that the operator allows in this namespace (spec.mode is "
        "Optimize): the default batch size 64"
    )
    assert bool(policy.asked) is asks_the_policy


def test_no_control_run_is_added_where_the_default_runs_anyway() -> None:
    known = facts(recurrence(1))
    spec = JobPlanSpec.from_document(spec_document(savings={"controlFraction": "0.5"}))

    kinds = [next_kind(known, each) for each in (spec, spec.with_mode_at_most(Mode.RECOMMEND))]

    assert kinds == [RecurrenceKind.CONTROL, RecurrenceKind.LEARNED]
