"""Who sweeps, who is stopped by a rule, and what is believed of a sweep."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import at, decision, execution_of, spec_document
from tests.support.plan_facts import ScriptedPolicy, attempt, facts, planned, recurrence
from tests.support.stop_rules import RULE
from zeus_operator.accounting import lesson
from zeus_operator.classify import classify
from zeus_operator.optimizer.types import Choice, Observation, SweepPoint
from zeus_operator.plan import decision_for
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    DecisionRecord,
    JobFacts,
    RecurrenceKind,
    RecurrenceState,
)
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import Outcome, Result, SweepMeasurement

SPEC = JobPlanSpec.from_document(spec_document())
SWEEP = (16, 64, 128)


def decided(known: JobFacts, **spec_changes: Any) -> DecisionRecord:
    """Return what is decided by a policy that wants a sweep and a stop rule each time."""
    policy = ScriptedPolicy()
    policy.answer = Choice(32, 500.0, "because", policy="scripted", stop_rule=RULE, sweep=SWEEP)
    (action,) = planned(known, policy=policy, **spec_changes)
    return action.decision  # type: ignore[union-attr]  # an open recurrence gets a decision


def test_a_run_is_told_the_rule_and_the_sizes_that_the_policy_wants() -> None:
    made = decided(facts(recurrence(1)))
    assert (made.stop_rule, made.sweep) == (RULE, SWEEP)
    told = decision_for(attempt(1, decision=made), SPEC, [])
    assert (told.stop_rule, told.sweep_batch_sizes) == (RULE, SWEEP)


def test_control_runs_and_modes_that_only_watch_have_neither() -> None:
    for made in (
        decided(facts(recurrence(1, kind=RecurrenceKind.CONTROL))),
        decided(facts(recurrence(1)), mode="Observe"),
        decided(facts(recurrence(1)), mode="Recommend"),
    ):
        assert (made.stop_rule, made.sweep) == (None, ())


def test_the_last_attempt_has_neither() -> None:
    failed = [attempt(number, Outcome.COST_EXCEEDED) for number in (1, 2, 3, 4)]
    made = decided(facts(recurrence(1, *failed)))
    assert (made.batch_size, made.cost_threshold_joules) == (64, None)
    assert (made.stop_rule, made.sweep) == (None, ())


def test_a_job_can_forbid_sweeps_and_keeps_the_rule() -> None:
    batch_size = {**spec_document()["batchSize"], "throughputSweep": "Never"}
    made = decided(facts(recurrence(1)), batchSize=batch_size)
    assert (made.stop_rule, made.sweep) == (RULE, ())


def swept(outcome: Outcome, gpu_model: str = "V100", *, asked: bool = True) -> AttemptRecord:
    return attempt(
        1, outcome, gpu_model=gpu_model, decision=decision(32, sweep=SWEEP if asked else ())
    )


def with_history(ended: AttemptRecord, **changes: Any) -> JobFacts:
    """Return a job with one failed recurrence, whose next one is to be decided."""
    failed = recurrence(1, ended, state=RecurrenceState.FAILED)
    observed = Observation(9, 1, 1, 64, Outcome.REACHED, 4, 1500.0, 300.0, "V100")
    return facts(failed, recurrence(2), observations=(observed,), **changes)


@pytest.mark.parametrize(
    ("ended", "sizes"),
    [
        pytest.param(swept(Outcome.CRASHED), (), id="crashed"),
        pytest.param(swept(Outcome.OUT_OF_MEMORY), (), id="out of memory"),
        pytest.param(swept(Outcome.LOST), (), id="lost"),
        pytest.param(swept(Outcome.DIVERGED), (), id="diverged"),
        pytest.param(swept(Outcome.CRASHED, ""), (), id="crashed before its GPU was known"),
        pytest.param(swept(Outcome.CRASHED, "A40"), SWEEP, id="crashed on another GPU"),
        pytest.param(swept(Outcome.CRASHED, asked=False), SWEEP, id="crashed without a sweep"),
        pytest.param(swept(Outcome.COST_EXCEEDED), SWEEP, id="ended well"),
    ],
)
def test_after_a_run_that_was_to_sweep_and_died_none_sweeps_on_that_gpu(
    ended: AttemptRecord, sizes: tuple[int, ...]
) -> None:
    assert decided(with_history(ended)).sweep == sizes


def test_a_gpu_is_known_again_by_the_label_of_its_node() -> None:
    # Nothing was learned from the run that crashed: the job's own word for the GPU is all there is.
    crashed = swept(Outcome.CRASHED, "Tesla V100-SXM2-32GB")
    known = facts(recurrence(1, crashed, state=RecurrenceState.FAILED), recurrence(2))
    assert decided(known, gpu={"product": "Tesla-V100-SXM2-32GB"}).sweep == ()
    assert decided(known, gpu={"product": "NVIDIA-A40"}).sweep == SWEEP


def test_the_next_attempt_of_the_recurrence_does_not_sweep_after_a_crash_either() -> None:
    assert decided(facts(recurrence(1, swept(Outcome.CRASHED, "")))).sweep == ()


@pytest.mark.parametrize(("sweeping", "sizes"), [(None, SWEEP), (128, ())])
def test_an_execution_killed_while_sweeping_is_repeated_without(
    sweeping: int | None, sizes: tuple[int, ...]
) -> None:
    killed = execution_of(result(sweeping=sweeping), outcome=Outcome.PREEMPTED)
    again = attempt(1, executions=(killed,), decision=decision(32, sweep=SWEEP))
    assert decision_for(again, SPEC, []).sweep_batch_sizes == sizes


# What a result claims ------------------------------------------------------------


MEASURED = (SweepMeasurement(16, 3.0, 400.0), SweepMeasurement(128, 1.5, 300.0))
DECISION = decision(32, sweep=SWEEP)


def result(**changes: Any) -> Result:
    plain = Result(
        batch_size=32,
        epochs=4,
        time_seconds=8.0,
        energy_joules=1000.0,
        max_power_watts=250.0,
        gpu_count=1,
        best_metric=0.5,
        last_metric=0.5,
        full_power_epoch_joules=350.0,
        full_power_epoch_seconds=2.0,
        sweep=MEASURED,
        sweep_joules=50.0,
        sweep_seconds=0.5,
    )
    return replace(plain, **changes)


def test_what_a_sweep_measured_becomes_costs_of_epochs() -> None:
    learned = lesson(result(), DECISION, 0.5)
    assert learned is not None
    assert learned.sweep == (
        SweepPoint(16, cost_joules(400.0, 3.0, 250.0, 0.5)),
        SweepPoint(128, cost_joules(300.0, 1.5, 250.0, 0.5)),
    )
    assert learned.full_power_epoch_cost_joules == cost_joules(350.0, 2.0, 250.0, 0.5)
    assert learned.sweep_cost_joules == cost_joules(50.0, 0.5, 250.0, 0.5)
    assert learned.cost_joules == cost_joules(1000.0, 8.0, 250.0, 0.5)


def test_a_run_of_an_older_runtime_teaches_what_it_always_did() -> None:
    old = result(
        sweep=(),
        sweep_joules=None,
        sweep_seconds=None,
        full_power_epoch_joules=None,
        full_power_epoch_seconds=None,
    )
    learned = lesson(old, DECISION, 0.5)
    assert learned is not None
    assert (learned.sweep, learned.sweep_cost_joules) == ((), 0.0)
    assert learned.full_power_epoch_cost_joules is None


def one(**changes: Any) -> tuple[SweepMeasurement, ...]:
    return (MEASURED[0], replace(MEASURED[1], **changes))


@pytest.mark.parametrize(
    "sweep",
    [
        one(batch_size=32),  # not asked for
        one(batch_size=16),  # twice
        one(batch_size=128.0),
        one(batch_size=[128]),
        one(epoch_seconds=math.nan),
        one(epoch_seconds=0.0),
        one(epoch_seconds=-1.0),
        one(epoch_seconds="1"),
        one(epoch_seconds=10**400),
        one(epoch_seconds=True),
        one(epoch_joules=math.inf),
        one(epoch_joules=0.0),
        one(epoch_joules=1.5 * 250.0 * 1.1),  # more than the GPU can take
        one(epoch_joules=[1]),
    ],
    ids=range(14),
)
def test_a_sweep_that_can_not_be_true_is_dropped_and_the_run_counts(sweep: Any) -> None:
    claimed = result(sweep=sweep)
    outcome, _ = classify(execution_of(claimed), DECISION, SPEC)
    assert outcome is not Outcome.NO_TELEMETRY
    learned = lesson(claimed, DECISION, 0.5)
    assert learned is not None
    assert (learned.sweep, learned.epochs) == ((), 4)


def test_nobody_is_believed_to_have_swept_what_nobody_asked_for() -> None:
    learned = lesson(result(), decision(32), 0.5)
    assert learned is not None
    assert (learned.sweep, learned.sweep_cost_joules) == ((), 0.0)


@pytest.mark.parametrize(
    "forged",
    [
        {"sweep_joules": 2000.0},
        {"sweep_joules": -1.0},
        {"sweep_joules": "50"},
        {"sweep_seconds": 9.0},
        {"sweep_seconds": math.nan},
        {"sweep_seconds": None},
    ],
)
def test_a_sweep_never_took_more_than_the_run(forged: dict[str, Any]) -> None:
    learned = lesson(result(**forged), DECISION, 0.5)
    assert learned is not None
    assert learned.sweep_cost_joules == 0.0


@pytest.mark.parametrize(
    "forged",
    [
        {"full_power_epoch_seconds": "2"},
        {"full_power_epoch_seconds": -2.0},
        {"full_power_epoch_joules": 600.0},
        {"full_power_epoch_joules": math.nan},
        {"full_power_epoch_joules": None},  # known in seconds alone: no cost
    ],
)
def test_a_cost_at_full_power_that_can_not_be_true_is_unknown(forged: dict[str, Any]) -> None:
    learned = lesson(result(**forged), DECISION, 0.5)
    assert learned is not None
    assert learned.full_power_epoch_cost_joules is None


# How a run ended -------------------------------------------------------------------


def test_a_run_stopped_by_its_rule_has_exceeded_its_cost_and_says_so() -> None:
    ended = execution_of(result(outcome="cost_exceeded"), exit_code=86)
    outcome, detail = classify(ended, decision(32, stop_rule=RULE), SPEC)
    assert outcome is Outcome.COST_EXCEEDED
    assert "4 of 20 epochs" in detail
    assert "not expected to reach the target at a cost that pays" in detail


@pytest.mark.parametrize(("threshold", "says"), [(2000.0, "than 2000 J"), (5000.0, "not expected")])
def test_a_run_with_both_says_which_of_them_ended_it(threshold: float, says: str) -> None:
    # It has cost 1500 J, and another epoch costs 540 J.
    claimed = result(outcome="cost_exceeded", epoch_energy_joules=330.0, epoch_time_seconds=3.0)
    ended = execution_of(claimed, exit_code=86)
    both = decision(32, stop_rule=RULE, cost_threshold_joules=threshold)
    outcome, detail = classify(ended, both, SPEC)
    assert outcome is Outcome.COST_EXCEEDED
    assert says in detail


def test_a_run_that_was_given_neither_can_not_have_exceeded_its_cost() -> None:
    ended = execution_of(result(outcome="cost_exceeded"), exit_code=86)
    assert classify(ended, DECISION, SPEC)[0] is Outcome.NO_TELEMETRY


def test_a_crash_within_a_sweep_is_a_crash_and_names_the_size() -> None:
    claimed = result(sweeping=128, epochs=1, note="the GPU ran out of memory")
    ended = execution_of(claimed, exit_code=1, output_tail="OutOfMemoryError: no room")
    outcome, detail = classify(ended, DECISION, SPEC)
    assert outcome is Outcome.CRASHED
    assert "measuring a few steps of batch size 128" in detail
    assert "128" not in classify(replace(ended, result=result()), DECISION, SPEC)[1]


def test_a_recurrence_goes_on_with_another_attempt_after_a_crash_within_a_sweep() -> None:
    claimed = result(sweeping=128, epochs=1)
    crashed = execution_of(
        replace(claimed, job="default/digits", recurrence="10", attempt=1), exit_code=1
    )
    running = attempt(1, executions=(crashed,), decision=DECISION)
    (closing,) = planned(facts(recurrence(1, running)), at(11))
    assert (closing.outcome, closing.learn) == (Outcome.CRASHED, False)  # type: ignore[union-attr]
    ended = replace(running, state=attempt(1, Outcome.CRASHED).state, outcome=Outcome.CRASHED)
    again = decided(facts(recurrence(1, ended)))
    assert (again.batch_size, again.sweep) == (32, ())


@pytest.mark.parametrize(("seconds", "learn"), [(0.5, False), (None, True)])
def test_a_run_that_diverged_after_a_sweep_says_nothing_of_its_batch_size(
    seconds: float | None, learn: bool
) -> None:
    claimed = result(outcome="diverged", sweep_seconds=seconds)
    ended = execution_of(
        replace(claimed, job="default/digits", recurrence="10", attempt=1), exit_code=86
    )
    running = attempt(1, executions=(ended,), decision=DECISION)
    (closing,) = planned(facts(recurrence(1, running)), at(11))
    assert (closing.outcome, closing.learn) == (Outcome.DIVERGED, learn)  # type: ignore[union-attr]
    assert ("not learned from" in closing.detail) is not learn  # type: ignore[union-attr]
