"""Names, seeds, what a run is told, and replay."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.jobs import PROFILE, START, at, decision, spec_document
from tests.support.plan_facts import JOB, attempt, facts, recurrence
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.types import Observation
from zeus_operator.plan import child_name, decision_for, plan, replay, seed_of
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import ProfileRecord, RecurrenceKind
from zeus_runtime.protocol import Decision, Outcome

SPEC = JobPlanSpec.from_document(spec_document())
LEARNED, CONTROL = RecurrenceKind.LEARNED, RecurrenceKind.CONTROL


@settings(max_examples=100, deadline=None)
@given(
    name=st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True),
    milliseconds=st.integers(0, 10**12),
    number=st.integers(1, 20),
    kind=st.sampled_from(list(RecurrenceKind)),
)
def test_a_child_name_is_a_short_dns_label(
    name: str, milliseconds: int, number: int, kind: RecurrenceKind
) -> None:
    job = replace(JOB, name=name)
    made = child_name(job, kind, START + timedelta(milliseconds=milliseconds), number)
    assert len(made) <= 52
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", made)
    assert "0a1b2c3d" in made


def test_child_names_differ_by_incarnation_time_kind_and_attempt() -> None:
    long = replace(JOB, name="a" * 40)
    names = {
        child_name(long, LEARNED, START, 1),
        child_name(long, LEARNED, START, 2),
        child_name(long, CONTROL, START, 1),
        child_name(long, LEARNED, START + timedelta(milliseconds=1), 1),
        child_name(replace(long, uid="ffffffff-1"), LEARNED, START, 1),
    }
    assert len(names) == 5
    assert child_name(long, LEARNED, START, 1) in names


def test_seeds_are_stable_over_releases_and_fit_every_generator() -> None:
    assert seed_of(7, LEARNED, 1, 1) == 1_067_594_861
    assert all(0 <= seed_of(7, LEARNED, n, 1) < 2**31 for n in range(50))


def profile(batch_size: int, seconds: float, model: str = "V100") -> ProfileRecord:
    return ProfileRecord(batch_size, model, "550", 1, PROFILE, at(seconds))


def test_a_run_is_told_the_terms_and_the_newest_profile_of_its_batch_size() -> None:
    decided = attempt(1, decision=decision(32, cost_threshold_joules=900.0, target=0.8, eta=0.25))
    profiles = [profile(32, 1, "A40"), profile(32, 2), profile(64, 3)]
    told = decision_for(decided, SPEC, profiles)
    assert (told.batch_size, told.cost_threshold_joules, told.target, told.eta) == (
        32,
        900.0,
        0.8,
        0.25,
    )
    assert (told.max_epochs, told.metric_mode, told.power_min_percent) == (20, "Max", 50.0)
    assert (told.power_profile, told.profile_gpu_model) == (PROFILE, "V100")
    assert Decision.from_json(told.to_json()) == told


def test_without_a_profile_or_leave_to_set_power_none_is_handed_over() -> None:
    assert decision_for(attempt(1), SPEC, [profile(32, 1)]).power_profile == ()
    fixed = attempt(1, decision=decision(64, optimize_power=False))
    told = decision_for(fixed, SPEC, [profile(64, 1)])
    assert (told.power_profile, told.profile_gpu_model, told.optimize_power) == ((), "", False)


@pytest.mark.parametrize(
    ("scaling", "expected"), [("None", 0.1), ("Linear", 0.05), ("SquareRoot", 0.1 * 0.5**0.5)]
)
def test_the_learning_rate_follows_the_batch_size(scaling: str, expected: float) -> None:
    document = spec_document()
    document["batchSize"]["learningRate"]["scaling"] = scaling
    assert JobPlanSpec.from_document(document).learning_rate_at(32) == pytest.approx(expected)


def test_without_one_in_the_spec_no_learning_rate_is_told() -> None:
    document = spec_document()
    del document["batchSize"]["learningRate"]
    assert JobPlanSpec.from_document(document).learning_rate_at(32) is None


@pytest.mark.parametrize(
    ("exploration", "share", "every_history"),
    [
        (None, 0.05, False),
        ({}, 0.05, False),
        ({"maxExtraCostPercent": "12.5"}, 0.125, False),
        ({"maxExtraCostPercent": "0", "bound": "EveryHistory"}, 0.0, True),
    ],
)
def test_what_exploring_may_cost_is_part_of_the_problem_that_is_stored_with_the_decision(
    exploration: dict[str, str] | None, share: float, every_history: bool
) -> None:
    document = {k: v for k, v in spec_document().items() if k != "exploration"}
    if exploration is not None:
        document["exploration"] = exploration
    spec = JobPlanSpec.from_document(document)
    action = plan(facts(recurrence(1)), spec, policy("structured"), START)[0]
    stored = action.decision.problem  # type: ignore[union-attr]  # an open recurrence gets one
    assert stored is not None
    assert (stored.exploration_share, stored.bound_every_history) == (share, every_history)


OBSERVED = tuple(
    Observation(n, n, 1, size, Outcome.REACHED, 4, 1000.0 + n * size, 250.0)
    for n, size in enumerate((64, 32, 128, 64, 32), start=1)
)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_what_was_decided_is_decided_again_from_what_was_stored(name: str) -> None:
    chosen = policy(name)
    known = facts(recurrence(6), observations=OBSERVED[:4])
    action = plan(known, SPEC, chosen, START)[0]
    stored = action.decision  # type: ignore[union-attr]  # an open recurrence gets a decision
    again = replay(stored, policy(name), OBSERVED)  # one more was observed since
    assert again is not None
    assert (again.batch_size, again.cost_threshold_joules, again.sentence) == (
        stored.batch_size,
        stored.cost_threshold_joules,
        stored.sentence,
    )


def test_where_no_policy_decided_there_is_nothing_to_replay() -> None:
    known = facts(recurrence(1, kind=CONTROL))
    action = plan(known, SPEC, policy("zeus"), START)[0]
    assert replay(action.decision, policy("zeus"), ()) is None  # type: ignore[union-attr]  # a decision


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_observations_of_a_batch_size_that_is_no_longer_a_choice_break_nothing(name: str) -> None:
    removed = Observation(8, 4, 1, 512, Outcome.REACHED, 4, 900.0, 225.0)
    known = facts(recurrence(6), observations=(*OBSERVED, removed))
    action = plan(known, SPEC, policy(name), START)[0]
    assert action.decision.batch_size in SPEC.batch_sizes  # type: ignore[union-attr]  # a decision
