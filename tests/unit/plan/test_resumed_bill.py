"""Executions that go on from a checkpoint: each is billed once, the whole run is learned from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.jobs import at, decision, execution_of, spec_document
from zeus_operator.accounting import Bill, believable_results, bill, lesson
from zeus_operator.classify import RunIdentity, classify
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import ExecutionRecord
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import Outcome, Result

SPEC = JobPlanSpec.from_document(spec_document())
IDENTITY = RunIdentity("default/digits", "17", 2)
DECISION = decision(64)
ETA = 0.5

CUT = Result(
    job="default/digits",
    recurrence="17",
    attempt=2,
    sequence=3,
    batch_size=64,
    epochs=5,
    time_seconds=50.0,
    energy_joules=5000.0,
    max_power_watts=250.0,
    gpu_model="Tesla V100",
    gpu_count=1,
    best_metric=0.5,
    last_metric=0.5,
    milestones=((1, 0.3), (5, 0.5)),
)
RESUMED = replace(
    CUT,
    outcome="reached",
    epochs=9,
    time_seconds=90.0,
    energy_joules=9000.0,
    best_metric=0.95,
    last_metric=0.95,
    milestones=((1, 0.3), (5, 0.5), (9, 0.95)),
    carried_epochs=4,
    carried_energy_joules=4000.0,
    carried_time_seconds=40.0,
)
"""From the checkpoint after epoch 4: the fifth was lost and done again."""


def executions(*results: Result | None, seconds: float = 60.0) -> tuple[ExecutionRecord, ...]:
    """Return executions one after the other; all but the last were ended from outside."""
    return tuple(
        execution_of(
            result,
            uid=f"run-{index}",
            started_at=at(100 * index),
            ended_at=at(100 * index + seconds),
            outcome=Outcome.PREEMPTED if index + 1 < len(results) else None,
        )
        for index, result in enumerate(results)
    )


def billed(*results: Result | None, **changes: Any) -> Bill:
    return bill(believable_results(executions(*results), DECISION, SPEC, IDENTITY), ETA)


def sums(total: Bill) -> tuple[float | None, float | None]:
    return total.energy_joules, total.time_seconds


def test_each_execution_is_billed_once() -> None:
    total = billed(CUT, RESUMED)
    # 5000 of the first, and the 5 epochs that the second did itself.
    assert sums(total) == (10_000.0, 100.0)
    assert total.cost_joules == pytest.approx(cost_joules(10_000.0, 100.0, 250.0, ETA))
    assert total.epochs == 9


def test_the_whole_run_is_learned_from_without_what_was_lost() -> None:
    learned = lesson(RESUMED, DECISION, ETA)
    assert learned is not None
    assert (learned.epochs, learned.energy_joules, learned.time_seconds) == (9, 9000.0, 90.0)
    assert learned.cost_joules == cost_joules(9000.0, 90.0, 250.0, ETA)
    assert learned.milestones == RESUMED.milestones


def test_a_run_that_starts_from_scratch_is_billed_as_ever() -> None:
    scratch = replace(
        RESUMED, carried_epochs=None, carried_energy_joules=None, carried_time_seconds=None,
        time_seconds=55.0,
    )  # fmt: skip
    assert sums(billed(CUT, scratch)) == (14_000.0, 105.0)


def test_three_executions_are_billed_once_each() -> None:
    second = replace(RESUMED, outcome=None, epochs=7, time_seconds=70.0, energy_joules=7000.0,
                     milestones=CUT.milestones, best_metric=0.5)  # fmt: skip
    third = replace(
        RESUMED, epochs=10, time_seconds=96.0, energy_joules=9600.0,
        carried_epochs=6, carried_energy_joules=6000.0, carried_time_seconds=60.0,
    )  # fmt: skip
    assert sums(billed(CUT, second, third)) == (5000.0 + 3000.0 + 3600.0, 50.0 + 30.0 + 36.0)


def test_what_is_carried_from_an_execution_whose_result_is_lost_is_billed_too() -> None:
    assert sums(billed(None, RESUMED)) == (9000.0, 90.0)


def test_a_second_part_that_had_nothing_to_do_adds_nothing() -> None:
    nothing = replace(
        RESUMED,
        time_seconds=40.0,
        energy_joules=4000.0,
        epochs=4,
        milestones=((1, 0.95),),
    )
    assert sums(billed(CUT, nothing)) == (5000.0, 50.0)


parts = st.lists(
    st.tuples(st.floats(1.0, 50.0), st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=5
)


@given(story=parts)
def test_the_bill_is_what_was_spent_however_often_a_run_goes_on(
    story: list[tuple[float, float, bool]],
) -> None:
    """(seconds, share of them before the checkpoint, whether the next one goes on)."""
    results: list[Result] = []
    spent = before = 0.0
    goes_on = False
    for own, share, next_goes_on in story:
        spent += own
        kept = before if goes_on else 0.0
        carried = {
            "carried_epochs": 0,
            "carried_time_seconds": kept,
            "carried_energy_joules": 100.0 * kept,
        }
        results.append(
            replace(
                CUT,
                time_seconds=kept + own,
                energy_joules=100.0 * (kept + own),
                **(carried if goes_on else {}),
            )
        )
        before, goes_on = kept + share * own, next_goes_on
    total = bill(believable_results(executions(*results), DECISION, SPEC, IDENTITY), ETA)
    assert sums(total) == (pytest.approx(100.0 * spent), pytest.approx(spent))
    assert total.cost_joules == pytest.approx(cost_joules(100.0 * spent, spent, 250.0, ETA))


class TestOnOtherGpus:
    """The run went on on a GPU that takes more."""

    elsewhere = replace(RESUMED, gpu_model="H100", max_power_watts=700.0, carried_elsewhere=True)

    def test_nothing_is_learned(self) -> None:
        assert lesson(self.elsewhere, DECISION, ETA) is None

    def test_each_part_is_billed_at_the_limits_of_its_own_gpu(self) -> None:
        total = billed(CUT, self.elsewhere)
        assert sums(total) == (10_000.0, 100.0)
        assert total.cost_joules == pytest.approx(
            cost_joules(5000.0, 50.0, 250.0, ETA) + cost_joules(5000.0, 50.0, 700.0, ETA)
        )

    def test_of_a_first_part_whose_result_is_lost_nothing_is_guessed(self) -> None:
        assert sums(billed(None, self.elsewhere)) == (5000.0, 50.0)


def test_a_first_part_of_unknown_energy_leaves_the_whole_unknown() -> None:
    unknown = replace(RESUMED, energy_joules=None, carried_energy_joules=None)
    total = billed(replace(CUT, energy_joules=None), unknown)
    assert (total.energy_joules, total.cost_joules, total.time_seconds) == (None, None, 100.0)
    assert lesson(unknown, DECISION, ETA) is None


# What a result claims --------------------------------------------------------


def judged(result: Result) -> tuple[Outcome, str]:
    return classify(executions(CUT, result)[-1], DECISION, SPEC, IDENTITY)


def test_a_resumed_run_may_have_taken_longer_than_its_own_execution() -> None:
    assert judged(RESUMED)[0] is Outcome.REACHED


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        ({"carried_epochs": 10}, "carried_epochs is 10 of 9"),
        ({"carried_epochs": -1}, "carried_epochs is -1"),
        ({"carried_epochs": None}, "carried_epochs is None"),
        ({"carried_epochs": True}, "carried_epochs is True"),
        ({"carried_time_seconds": None}, "carried_time_seconds is None"),
        ({"carried_time_seconds": 91.0}, "carried_time_seconds is 91.0 of 90"),
        ({"carried_time_seconds": -1.0}, "carried_time_seconds is -1.0"),
        ({"carried_time_seconds": math.nan}, "carried_time_seconds is nan"),
        ({"carried_time_seconds": "40"}, "carried_time_seconds is '40'"),
        ({"carried_energy_joules": None}, "carried_energy_joules is None of 9000"),
        ({"carried_energy_joules": 9001.0}, "carried_energy_joules is 9001.0"),
        ({"carried_energy_joules": -1.0}, "carried_energy_joules is -1.0"),
        ({"carried_elsewhere": "here"}, "carried_elsewhere is 'here'"),
        ({"time_seconds": 140.0}, "100 s measured in a run of 60 s"),
        ({"energy_joules": 30_000.0}, "26000 J in 60 s on 250 W at most"),
        ({"carried_epochs": None, "carried_time_seconds": None}, "carried_epochs is None"),
    ],
)
def test_a_carried_part_that_can_not_be_true_is_not_believed(
    forged: dict[str, Any], why: str
) -> None:
    outcome, detail = judged(replace(RESUMED, **forged))
    assert outcome is Outcome.NO_TELEMETRY
    assert why in detail


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(
            {"time_seconds": 150.0, "carried_time_seconds": 100.0}, id="more time than there was"
        ),
        pytest.param(
            {"energy_joules": 55_000.0, "carried_energy_joules": 50_000.0}, id="more than GPUs take"
        ),
    ],
)
def test_a_result_that_carries_more_than_there_was_is_not_billed(forged: dict[str, Any]) -> None:
    assert billed(CUT, replace(RESUMED, **forged)) == bill((CUT,), ETA)


def test_the_first_execution_can_carry_nothing_that_does_not_fit_into_it() -> None:
    (first,) = executions(RESUMED)
    assert believable_results((first,), DECISION, SPEC, IDENTITY) == ()


def test_a_script_may_start_anew_within_one_execution() -> None:
    within = replace(RESUMED, time_seconds=55.0, carried_time_seconds=25.0)
    assert sums(billed(within)) == (9000.0, 55.0)
