"""A run ends before the epoch that would pass its threshold, and says how it ended."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeus_runtime.judge import Judge, why_not_applied
from zeus_runtime.progress import MetricRecord
from zeus_runtime.protocol import Decision, MetricMode, Outcome
from zeus_runtime.stop import StopTraining, is_out_of_memory
from zeus_runtime.stopping import CostSoFar, affordable_epochs, exceeds_threshold

DECISION = Decision(
    batch_size=64, target=0.9, metric_mode="Max", max_epochs=10, cost_threshold_joules=100.0
)


def judged(
    metric: MetricRecord, epochs: int, cost: CostSoFar | None = None, applied: bool = True
) -> Outcome | None:
    ending = Judge(DECISION, 10, applied).between_epochs(metric, epochs, cost)
    return None if ending is None else ending.outcome


def metric(*values: float) -> MetricRecord:
    record = MetricRecord(MetricMode.MAX, 0.9)
    for epoch, value in enumerate(values, start=1):
        record.report(epoch, value)
    return record


def test_a_run_goes_on_while_the_next_epoch_is_within_the_threshold() -> None:
    assert not exceeds_threshold(CostSoFar(3, 60.0, 20.0), 80.0)
    assert exceeds_threshold(CostSoFar(3, 60.1, 20.0), 80.0)


def test_without_a_measured_epoch_the_mean_of_the_epochs_so_far_counts() -> None:
    assert CostSoFar(4, 60.0).next_epoch_joules == 15.0


def test_no_threshold_stops_a_run_before_its_first_epoch() -> None:
    assert not exceeds_threshold(CostSoFar(0, 0.0, 50.0), 1.0)
    assert affordable_epochs(1.0, 50.0, 10) == 1


@given(
    threshold=st.floats(0.0, 1e6),
    epoch=st.floats(0.01, 1e5),
    first=st.floats(0.01, 1e5),
    most=st.integers(1, 50),
)
def test_the_closed_form_agrees_with_asking_before_each_epoch(
    threshold: float, epoch: float, first: float, most: int
) -> None:
    epochs = 0
    while epochs < most:
        cost = first + epoch * (epochs - 1) if epochs else 0.0
        if exceeds_threshold(CostSoFar(epochs, cost, epoch), threshold):
            break
        epochs += 1
    counted = affordable_epochs(threshold, epoch, most, first)
    edge = (threshold - first) / epoch
    if abs(edge - round(edge)) > 1e-9:  # on the edge itself rounding decides
        assert counted == epochs


def test_the_target_ends_a_run_even_when_the_cost_is_exceeded_too() -> None:
    assert judged(metric(0.5, 0.95), 2, CostSoFar(2, 1e9, 1e9)) is Outcome.REACHED


def test_the_last_epoch_without_the_target_is_max_epochs_and_stops_the_script() -> None:
    ending = Judge(DECISION, 10).between_epochs(metric(0.5), 10, None)
    assert ending is not None
    assert (ending.outcome, ending.stops_script) == (Outcome.MAX_EPOCHS, True)


def test_a_run_that_never_reported_is_no_telemetry() -> None:
    assert judged(metric(), 10) is Outcome.NO_TELEMETRY


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_divergence(value: float) -> None:
    assert judged(metric(0.5, value), 2) is Outcome.DIVERGED


def test_the_threshold_of_another_batch_size_does_not_count() -> None:
    cost = CostSoFar(2, 99.0, 50.0)
    assert judged(metric(0.5), 2, cost) is Outcome.COST_EXCEEDED
    assert judged(metric(0.5), 2, cost, applied=False) is None


def test_a_decision_that_was_not_applied_is_the_outcome_whatever_else_happens() -> None:
    judge = Judge(DECISION, 10, applied=False)
    ending = judge.between_epochs(metric(0.95), 2, None)
    assert judge.outcome(ending, out_of_memory=True) is Outcome.DECISION_NOT_APPLIED


@pytest.mark.parametrize(
    ("values", "asked_to_end", "outcome", "stops_script"),
    [
        ((0.5,), False, Outcome.MAX_EPOCHS, True),
        ((0.5,), True, Outcome.PREEMPTED, True),
        ((0.5, 0.95), False, Outcome.REACHED, False),
        ((0.5, 0.95), True, Outcome.REACHED, False),
        ((0.5, math.nan), False, Outcome.DIVERGED, True),
        ((), False, Outcome.NO_TELEMETRY, False),
    ],
)
def test_where_the_script_itself_ends_its_training(
    values: tuple[float, ...], asked_to_end: bool, outcome: Outcome, stops_script: bool
) -> None:
    judge = Judge(DECISION, 10)
    ending = judge.at_will(metric(*values), len(values), asked_to_end=asked_to_end)
    assert (ending.outcome, ending.stops_script) == (outcome, stops_script)
    # That a run was preempted is for whoever has done it to say.
    claimed = None if outcome is Outcome.PREEMPTED else outcome
    assert judge.outcome(ending, out_of_memory=False) is claimed


def test_outside_a_job_it_may_end_its_training_at_will() -> None:
    ending = Judge(None, 10).at_will(MetricRecord(), 2, asked_to_end=False)
    assert (ending.outcome, ending.stops_script) == (None, False)


def test_outside_a_job_nothing_but_the_last_epoch_ends_a_run() -> None:
    judge = Judge(None, 10)
    record = MetricRecord()
    record.report(1, math.nan)
    assert judge.between_epochs(record, 9, None) is None
    ending = judge.between_epochs(record, 10, None)
    assert ending is not None
    assert (ending.outcome, ending.stops_script) == (None, False)


def test_lower_can_be_better() -> None:
    record = MetricRecord(MetricMode.MIN, 0.2)
    for epoch, value in enumerate((0.9, 0.5, 0.6, 0.3), start=1):
        record.report(epoch, value)
    assert record.milestones == ((1, 0.9), (2, 0.5), (4, 0.3))
    assert (record.best, record.last, record.reached) == (0.3, 0.3, False)
    record.report(5, 0.2)
    assert record.reached


def test_the_error_of_a_wrong_batch_size_names_both_and_the_fix() -> None:
    sentence = why_not_applied(DECISION, "", 32)
    for part in ("64", "32", "zeus_runtime.batch_size", "$(ZEUS_BATCH_SIZE)"):
        assert part in sentence
    assert why_not_applied(DECISION, "", 64) == ""
    assert why_not_applied(None, "", 32) == ""


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def test_a_gpu_out_of_memory_is_known_by_name_or_words_also_as_a_cause() -> None:
    wrapped = ValueError("training failed")
    wrapped.__cause__ = RuntimeError("CUDA error: out of memory")
    assert is_out_of_memory(OutOfMemoryError("..."))
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(ValueError("out of memory is not what this is about"))
    assert not is_out_of_memory(None)


def test_stop_training_is_an_exit_with_code_86() -> None:
    with pytest.raises(SystemExit) as caught:
        raise StopTraining(Outcome.COST_EXCEEDED, "too dear")
    assert caught.value.code == 86
    assert str(caught.value) == "too dear"


def test_where_the_process_was_asked_to_end_its_code_is_that_of_the_signal() -> None:
    assert StopTraining(Outcome.PREEMPTED, "asked to").code == 128 + 15
