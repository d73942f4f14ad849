"""How an execution ended: a table of what is known against what it is called."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import at, decision, execution_of, spec_document
from zeus_operator.classify import RunIdentity, classify
from zeus_operator.plan_spec import JobPlanSpec
from zeus_runtime.protocol import Outcome, Result

SPEC = JobPlanSpec.from_document(spec_document())
IDENTITY = RunIdentity("default/digits", "17", 2)
DECISION = decision(64, cost_threshold_joules=5000.0)


def result(**changes: Any) -> Result:
    plain = Result(
        job="default/digits",
        recurrence="17",
        attempt=2,
        sequence=3,
        batch_size=64,
        epochs=4,
        time_seconds=8.0,
        energy_joules=1000.0,
        max_power_watts=250.0,
        gpu_count=1,
        best_metric=0.5,
        last_metric=0.5,
        milestones=((1, 0.3), (3, 0.5)),
    )
    return replace(plain, **changes)


def judged(result: Result | None, **changes: Any) -> tuple[Outcome, str]:
    return classify(execution_of(result, **changes), DECISION, SPEC, IDENTITY)


REACHED = {"outcome": "reached", "best_metric": 0.95, "last_metric": 0.95}


@pytest.mark.parametrize(
    ("known", "exit_code", "expected"),
    [
        pytest.param(REACHED, 0, Outcome.REACHED, id="reached"),
        pytest.param(
            {**REACHED, "outcome": None},
            0,
            Outcome.REACHED,
            id="the metric was reached and the script left its loop by itself",
        ),
        pytest.param(REACHED, 1, Outcome.CRASHED, id="reached, then the script failed"),
        pytest.param(REACHED, -9, Outcome.PREEMPTED, id="reached, then killed before the end"),
        pytest.param({"outcome": "cost_exceeded"}, 86, Outcome.COST_EXCEEDED, id="stopped by cost"),
        pytest.param(
            {"outcome": "cost_exceeded"}, 0, Outcome.COST_EXCEEDED, id="stopped, on_stop=return"
        ),
        pytest.param(
            {"outcome": "max_epochs", "epochs": 20}, 86, Outcome.MAX_EPOCHS, id="out of epochs"
        ),
        pytest.param(
            {"outcome": "max_epochs", "epochs": 10},
            86,
            Outcome.MAX_EPOCHS,
            id="the script allows fewer epochs",
        ),
        pytest.param(
            {"outcome": "diverged", "last_metric": math.nan}, 86, Outcome.DIVERGED, id="NaN"
        ),
        pytest.param({"outcome": "diverged"}, 1, Outcome.DIVERGED, id="diverged and then raised"),
        pytest.param(
            {"outcome": "out_of_memory", "epochs": 0, "milestones": ()},
            1,
            Outcome.OUT_OF_MEMORY,
            id="out of GPU memory",
        ),
        pytest.param(
            {"outcome": "out_of_memory"},
            -9,
            Outcome.OUT_OF_MEMORY,
            id="out of GPU memory, killed while it tidied up",
        ),
        pytest.param(
            {"outcome": "decision_not_applied", "batch_size": 32},
            0,
            Outcome.DECISION_NOT_APPLIED,
            id="another batch size",
        ),
        pytest.param(
            {**REACHED, "batch_size": 32},
            0,
            Outcome.DECISION_NOT_APPLIED,
            id="another batch size that reached the target",
        ),
        pytest.param({"outcome": "no_telemetry"}, 0, Outcome.NO_TELEMETRY, id="says so itself"),
        pytest.param({}, 1, Outcome.CRASHED, id="crashed after some epochs"),
        pytest.param({}, 0, Outcome.CRASHED, id="gave up by itself before max_epochs"),
        pytest.param({"epochs": 20}, 0, Outcome.MAX_EPOCHS, id="did all epochs, no word"),
        pytest.param(
            {"best_metric": None, "last_metric": None, "milestones": ()},
            0,
            Outcome.NO_TELEMETRY,
            id="never reported a metric",
        ),
        pytest.param({}, -9, Outcome.PREEMPTED, id="SIGKILL from outside"),
        pytest.param({}, 137, Outcome.PREEMPTED, id="SIGKILL as a container says it"),
        pytest.param({}, -15, Outcome.PREEMPTED, id="SIGTERM from outside"),
        pytest.param({}, 143, Outcome.PREEMPTED, id="SIGTERM as a container says it"),
        pytest.param({}, -11, Outcome.CRASHED, id="segmentation fault"),
        pytest.param({}, 139, Outcome.CRASHED, id="segmentation fault in a container"),
        pytest.param({}, 86, Outcome.LOST, id="stopped by the runtime without a word"),
        pytest.param({"outcome": "crashed"}, 0, Outcome.CRASHED, id="not for the runtime to say"),
        pytest.param({"outcome": "nonsense"}, 1, Outcome.CRASHED, id="unknown word"),
    ],
)
def test_an_ended_run_with_a_result(
    known: dict[str, Any], exit_code: int, expected: Outcome
) -> None:
    outcome, detail = judged(result(**known), exit_code=exit_code)
    assert (outcome, bool(detail)) == (expected, True)


@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [
        (0, Outcome.NO_TELEMETRY),
        (1, Outcome.CRASHED),
        (2, Outcome.CRASHED),
        (86, Outcome.LOST),
        (None, Outcome.LOST),
        (-9, Outcome.PREEMPTED),
        (-6, Outcome.CRASHED),
    ],
)
def test_an_ended_run_without_a_result(exit_code: int | None, expected: Outcome) -> None:
    assert judged(None, exit_code=exit_code)[0] is expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, Outcome.PREEMPTED),
        ({}, Outcome.PREEMPTED),
        ({"epochs": 99}, Outcome.PREEMPTED),  # not believed, and still ended by us
        (REACHED, Outcome.PREEMPTED),  # the script could not finish
        ({"outcome": "cost_exceeded"}, Outcome.COST_EXCEEDED),  # it was over before
    ],
)
def test_a_run_that_the_executor_ended(known: dict[str, Any] | None, expected: Outcome) -> None:
    found = None if known is None else result(**known)
    for exit_code in (0, 1, -15, None):
        outcome, _ = judged(found, exit_code=exit_code, outcome=Outcome.PREEMPTED)
        assert outcome is expected


def test_a_run_that_the_executor_lost_is_lost() -> None:
    assert judged(None, exit_code=None, outcome=Outcome.LOST)[0] is Outcome.LOST


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        ({"energy_joules": math.nan}, "energy_joules is nan"),
        ({"energy_joules": -1.0}, "-1 J"),
        ({"energy_joules": 1e6}, "J in 10 s on 250 W at most"),
        ({"energy_joules": "many"}, "energy_joules is 'many'"),
        ({"energy_joules": True}, "energy_joules is True"),
        ({"energy_joules": 10**400}, "energy_joules is 1000"),
        ({"best_metric": 10**400}, "best_metric is 1000"),
        ({"milestones": ((1, 10**400),)}, "milestone"),
        ({"time_seconds": 3600.0}, "measured in a run of 10 s"),
        ({"time_seconds": -1.0}, "measured in a run"),
        ({"max_power_watts": 1e9}, "largest power limit"),
        ({"max_power_watts": math.inf}, "max_power_watts is inf"),
        ({"epochs": 21, "outcome": "max_epochs"}, "21 epochs where 20 are the most"),
        ({"epochs": -1}, "epochs is -1"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"epoch_energy_joules": -1.0}, "epoch_energy_joules is -1"),
        ({"outcome": "reached"}, "claimed with best metric 0.5"),
        ({"milestones": ((9, 0.5),)}, "after the last epoch"),
        ({"milestones": ((1, math.nan),)}, "milestone"),
        ({"job": "default/other"}, "it is of default/other"),
        ({"recurrence": "18"}, "recurrence 18"),
        ({"attempt": 1}, "attempt 1"),
        ({"gpu_model": 5}, "gpu_model is 5"),
        ({"sequence": 2**40}, "sequence is"),
    ],
)
def test_a_result_that_can_not_be_true_is_no_telemetry(forged: dict[str, Any], why: str) -> None:
    outcome, detail = judged(result(**forged))
    assert outcome is Outcome.NO_TELEMETRY
    assert why in detail


def test_a_threshold_that_was_not_given_can_not_be_exceeded() -> None:
    ended = execution_of(result(outcome="cost_exceeded"), exit_code=86)
    outcome, detail = classify(ended, decision(64), SPEC, IDENTITY)
    assert outcome is Outcome.NO_TELEMETRY
    assert "none was given" in detail


def test_a_crash_with_an_unbelievable_result_is_still_a_crash() -> None:
    outcome, detail = judged(result(energy_joules=1e9), exit_code=1)
    assert outcome is Outcome.CRASHED
    assert "not believed" in detail


def test_a_crash_names_the_exit_code_and_the_last_line_of_the_output() -> None:
    tail = "Traceback (most recent call last):\n  ...\nValueError: no such file\n\n"
    _, detail = judged(None, exit_code=3, output_tail=tail)
    assert detail == "exit code 3: ValueError: no such file"


@pytest.mark.parametrize(
    ("mode", "target", "best", "expected"),
    [
        ("Min", "40.0", 39.9, Outcome.REACHED),
        ("Min", "40.0", 40.1, Outcome.NO_TELEMETRY),
        ("Max", "0.123456789", 0.1234568, Outcome.REACHED),  # 7 digits arrive
        ("Min", "0.123456781", 0.1234568, Outcome.REACHED),
    ],
)
def test_reached_follows_the_metric_and_the_rounding_of_results(
    mode: str, target: str, best: float, expected: Outcome
) -> None:
    document = spec_document()
    document["objective"]["metric"] = {"target": target, "mode": mode}
    spec = JobPlanSpec.from_document(document)
    ended = execution_of(result(outcome="reached", best_metric=best))
    assert classify(ended, DECISION, spec, IDENTITY)[0] is expected


def test_a_run_that_goes_on_can_not_be_judged() -> None:
    with pytest.raises(ValueError, match="has not ended"):
        judged(None, ended_at=None)


def test_a_short_run_has_room_for_the_coarseness_of_a_counter() -> None:
    short = result(time_seconds=0.2, energy_joules=90.0, outcome="max_epochs")
    assert judged(short, ended_at=at(0.2))[0] is Outcome.MAX_EPOCHS


class TestWordsOfTheExecutor:
    """What the executor knows better than exit code and result, and says why."""

    @pytest.mark.parametrize("known", [None, {}, REACHED, {"outcome": "cost_exceeded"}])
    @pytest.mark.parametrize("exit_code", [0, 1, None])
    def test_a_run_whose_child_was_deleted_is_cancelled_whatever_it_had_done(
        self, known: dict[str, Any] | None, exit_code: int | None
    ) -> None:
        found = None if known is None else result(**known)
        ended = {"exit_code": exit_code, "outcome": Outcome.CANCELLED}
        assert judged(found, reason="its Job was deleted", **ended) == (
            Outcome.CANCELLED,
            "its Job was deleted",
        )
        assert judged(found, **ended) == (Outcome.CANCELLED, "its child was deleted")

    @pytest.mark.parametrize("exit_code", [1, 137, None])
    def test_a_crash_says_the_reason_and_the_last_line_of_the_output(
        self, exit_code: int | None
    ) -> None:
        ended = {
            "exit_code": exit_code,
            "outcome": Outcome.CRASHED,
            "reason": "OOMKilled: the container hit its memory limit",
        }
        assert judged(None, **ended) == (Outcome.CRASHED, ended["reason"])
        said = judged(result(), output_tail="epoch 3\nloading the data\n", **ended)
        assert said == (Outcome.CRASHED, f"{ended['reason']}: loading the data")

    def test_a_memory_limit_that_was_hit_is_no_preemption(self) -> None:
        """SIGKILL from nobody knows whom is run again; the kernel's, at a limit, is not."""
        assert judged(result(), exit_code=137)[0] is Outcome.PREEMPTED
        seen = judged(result(), exit_code=137, outcome=Outcome.CRASHED, reason="OOMKilled")
        assert seen[0] is Outcome.CRASHED

    def test_what_the_runtime_had_said_before_the_crash_counts(self) -> None:
        ended = {"exit_code": 137, "outcome": Outcome.CRASHED, "reason": "OOMKilled"}
        assert judged(result(outcome="diverged"), **ended)[0] is Outcome.DIVERGED
        outcome, detail = judged(result(**REACHED), **ended)
        assert outcome is Outcome.CRASHED
        assert "the model may not have been saved" in detail

    def test_a_crash_with_a_result_that_is_not_believed_says_both(self) -> None:
        ended = {"exit_code": 1, "outcome": Outcome.CRASHED, "reason": "deadline exceeded"}
        outcome, detail = judged(result(energy_joules=1e9), **ended)
        assert outcome is Outcome.CRASHED
        assert detail.startswith("deadline exceeded; its result is not believed: ")

    def test_an_eviction_says_why(self) -> None:
        reason = "evicted: The node was low on resource: memory"
        for found in (None, result()):
            seen = judged(found, exit_code=137, outcome=Outcome.PREEMPTED, reason=reason)
            assert seen == (Outcome.PREEMPTED, reason)
        plain = judged(None, exit_code=None, outcome=Outcome.PREEMPTED)
        assert plain == (Outcome.PREEMPTED, "ended from outside before it was done")

    def test_a_lost_run_says_what_is_known_of_it(self) -> None:
        lost = {"exit_code": None, "outcome": Outcome.LOST}
        assert judged(None, **lost) == (Outcome.LOST, "the run ended and nobody saw how")
        assert judged(result(), reason="its pod is gone", **lost) == (
            Outcome.LOST,
            "the run ended and nobody saw how: its pod is gone",
        )
