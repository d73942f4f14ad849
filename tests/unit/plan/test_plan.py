"""What happens next to a job, fact by fact."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.jobs import START, at, decision, execution_of
from tests.support.plan_facts import (
    ScriptedPolicy,
    attempt,
    facts,
    planned,
    planned_with_wait,
    recurrence,
    request,
)
from zeus_operator.actions import (
    CloseAttempt,
    CloseRecurrence,
    CreateRecurrence,
    DecideAttempt,
    StartAttempt,
    StopAttempt,
    Wait,
)
from zeus_operator.optimizer.types import Observation
from zeus_operator.records import ExecutionRecord, RecurrenceKind, RecurrenceState
from zeus_runtime.protocol import Outcome, Result

LEARNED, CONTROL = RecurrenceKind.LEARNED, RecurrenceKind.CONTROL


def ran(outcome: Outcome, **changes: Any) -> ExecutionRecord:
    """Return an ended execution of attempt 1 of recurrence 1 with a believable result."""
    best = 0.95 if outcome is Outcome.REACHED else 0.5
    result = Result(
        job="default/digits",
        recurrence="10",
        attempt=changes.pop("attempt", 1),
        sequence=1,
        outcome=outcome.value,
        batch_size=64,
        epochs=4,
        time_seconds=8.0,
        energy_joules=1000.0,
        max_power_watts=250.0,
        gpu_count=1,
        best_metric=best,
    )
    return execution_of(result, **changes)


RUNNING = execution_of(None, ended_at=None, exit_code=None)
PREEMPTED = execution_of(None, exit_code=-15, outcome=Outcome.PREEMPTED)


class TestOpenRecurrences:
    def test_one_without_an_attempt_gets_a_decision(self) -> None:
        (action,) = planned(facts(recurrence(1)))
        assert isinstance(action, DecideAttempt)
        assert (action.recurrence_id, action.number) == (10, 1)
        assert action.decision.batch_size == 32
        assert action.decision.cost_threshold_joules == 500.0
        assert action.decision.learning_rate == pytest.approx(0.1 * (32 / 64) ** 0.5)
        assert action.decision.optimize_power

    def test_a_decided_attempt_starts(self) -> None:
        assert planned(facts(recurrence(1, attempt(1)))) == [StartAttempt(101)]

    def test_a_running_attempt_is_left_alone(self) -> None:
        assert planned(facts(recurrence(1, attempt(1, executions=(RUNNING,))))) == []

    @pytest.mark.parametrize(
        ("outcome", "exit_code", "learn"),
        [
            (Outcome.REACHED, 0, True),
            (Outcome.MAX_EPOCHS, 86, True),
            (Outcome.DIVERGED, 86, True),
            (Outcome.OUT_OF_MEMORY, 1, True),
            (Outcome.NO_TELEMETRY, 0, False),
        ],
    )
    def test_an_ended_execution_closes_the_attempt(
        self, outcome: Outcome, exit_code: int, learn: bool
    ) -> None:
        known = facts(recurrence(1, attempt(1, executions=(ran(outcome, exit_code=exit_code),))))
        (action,) = planned(known)
        assert isinstance(action, CloseAttempt)
        assert (action.attempt_id, action.outcome, action.learn) == (101, outcome, learn)

    def test_a_preempted_execution_goes_on_under_the_same_decision(self) -> None:
        known = facts(recurrence(1, attempt(1, executions=(PREEMPTED,))))
        assert planned(known) == [StartAttempt(101)]

    def test_preemption_is_not_repeated_for_ever(self) -> None:
        (action,) = planned(facts(recurrence(1, attempt(1, executions=(PREEMPTED,) * 20))))
        assert isinstance(action, CloseAttempt)
        assert (action.outcome, action.learn) == (Outcome.PREEMPTED, False)
        ended = attempt(1, Outcome.PREEMPTED)
        assert planned(facts(recurrence(1, ended))) == [CloseRecurrence(10, RecurrenceState.FAILED)]

    def test_a_run_killed_again_and_again_by_nobody_knows_whom_has_crashed(self) -> None:
        killed = execution_of(None, exit_code=-9)
        assert planned(facts(recurrence(1, attempt(1, executions=(killed,) * 2)))) == [
            StartAttempt(101)
        ]
        (action,) = planned(facts(recurrence(1, attempt(1, executions=(killed,) * 3))))
        assert isinstance(action, CloseAttempt)
        assert action.outcome is Outcome.CRASHED
        assert "out of memory" in action.detail

    def test_a_reached_target_closes_the_recurrence(self) -> None:
        assert planned(facts(recurrence(1, attempt(1, Outcome.REACHED)))) == [
            CloseRecurrence(10, RecurrenceState.REACHED)
        ]

    def test_a_cancelled_attempt_cancels_it(self) -> None:
        assert planned(facts(recurrence(1, attempt(1, Outcome.CANCELLED)))) == [
            CloseRecurrence(10, RecurrenceState.CANCELLED)
        ]

    @pytest.mark.parametrize(
        "outcome",
        [
            Outcome.COST_EXCEEDED,
            Outcome.MAX_EPOCHS,
            Outcome.DIVERGED,
            Outcome.OUT_OF_MEMORY,
            Outcome.CRASHED,
            Outcome.NO_TELEMETRY,
            Outcome.DECISION_NOT_APPLIED,
            Outcome.LOST,
        ],
    )
    def test_without_a_model_the_next_attempt_is_decided(self, outcome: Outcome) -> None:
        policy = ScriptedPolicy()
        (action,) = planned(facts(recurrence(1, attempt(1, outcome))), policy=policy)
        assert isinstance(action, DecideAttempt)
        assert action.number == 2
        assert policy.asked[0][2].failed == (64,)

    def test_the_last_attempt_is_the_default_without_a_threshold_whatever_the_policy_says(
        self,
    ) -> None:
        tried = [attempt(n, Outcome.COST_EXCEEDED) for n in range(1, 5)]
        (action,) = planned(facts(recurrence(1, *tried)))
        assert isinstance(action, DecideAttempt)
        assert (action.number, action.decision.batch_size) == (5, 64)
        assert action.decision.cost_threshold_joules is None

    def test_out_of_attempts_the_recurrence_has_failed(self) -> None:
        tried = [attempt(n, Outcome.MAX_EPOCHS) for n in range(1, 6)]
        assert planned(facts(recurrence(1, *tried))) == [
            CloseRecurrence(10, RecurrenceState.FAILED)
        ]

    def test_an_attempt_is_judged_by_the_terms_it_was_decided_under(self) -> None:
        known = facts(
            recurrence(
                1,
                attempt(1, executions=(ran(Outcome.REACHED),), decision=decision(target=0.9)),
            )
        )
        harder = {"metric": {"target": "0.99", "mode": "Max"}, "maxEpochs": 2}
        (action,) = planned(known, objective=harder)
        assert isinstance(action, CloseAttempt)
        assert action.outcome is Outcome.NO_TELEMETRY  # 4 epochs of 2 without a stored problem
        with_problem = decision(target=0.9, problem=_problem(20))
        known = facts(
            recurrence(1, attempt(1, executions=(ran(Outcome.REACHED),), decision=with_problem))
        )
        (action,) = planned(known, objective=harder)
        assert isinstance(action, CloseAttempt)
        assert action.outcome is Outcome.REACHED

    def test_what_counts_as_better_is_one_of_these_terms(self) -> None:
        (decided,) = planned(facts(recurrence(1)))
        assert isinstance(decided, DecideAttempt)
        told = replace(decided.decision, batch_size=64)
        failed = attempt(1, executions=(ran(Outcome.MAX_EPOCHS),), decision=told)
        lower = {"metric": {"target": "0.1", "mode": "Min"}, "maxEpochs": 20}
        (action,) = planned(facts(recurrence(1, failed)), objective=lower)
        assert isinstance(action, CloseAttempt)
        assert action.outcome is Outcome.MAX_EPOCHS  # 0.5 is not over 0.9, though it is under it
        measured = failed.executions[0].result
        assert measured is not None
        ended = replace(failed, executions=(execution_of(replace(measured, outcome=None)),))
        (action,) = planned(facts(recurrence(1, ended)), objective=lower)
        assert isinstance(action, CloseAttempt)
        assert action.outcome is Outcome.CRASHED


def _problem(max_epochs: int) -> Any:
    from zeus_operator.optimizer.types import Problem

    return Problem((16, 32, 64, 128), 64, max_epochs)


class TestWhatThePolicySees:
    OBSERVED = Observation(9, 1, 1, 64, Outcome.REACHED, 4, 1500.0, 300.0, "V100", 2)

    def test_all_observations_the_situation_and_a_stable_seed(self) -> None:
        policy = ScriptedPolicy()
        known = facts(recurrence(3), observations=(self.OBSERVED,))
        (first,) = planned(known, policy=policy)
        (again,) = planned(known, policy=policy)
        assert first == again
        (problem, observations, situation, seed), _ = policy.asked
        assert problem.batch_sizes == (16, 32, 64, 128)
        assert observations == (self.OBSERVED,)
        assert (situation.recurrence, situation.gpu_model, situation.gpu_count) == (3, "V100", 2)
        assert isinstance(first, DecideAttempt)
        assert first.decision.seed == seed
        assert first.decision.observations_seen == 1
        assert first.decision.last_observation_id == 9

    @pytest.mark.parametrize(
        ("product", "expected"),
        [
            ("NVIDIA-A100-SXM4-80GB", ("NVIDIA A100-SXM4-80GB", 4)),  # as runs have named it
            ("Tesla-T4", ("Tesla-T4", 2)),  # no run was there yet
            (None, ("V100", 2)),
        ],
    )
    def test_the_gpu_that_the_job_asks_for_under_the_name_that_its_runs_reported(
        self, product: str | None, expected: tuple[str, int]
    ) -> None:
        policy = ScriptedPolicy()
        on_a100 = replace(
            self.OBSERVED, attempt_id=8, gpu_model="NVIDIA A100-SXM4-80GB", gpu_count=4
        )
        known = facts(recurrence(3), observations=(on_a100, self.OBSERVED))
        planned(known, policy=policy, gpu={"product": product})
        (_, _, situation, _), *_ = policy.asked
        assert (situation.gpu_model, situation.gpu_count) == expected

    def test_seeds_differ_between_jobs_recurrences_attempts_and_kinds(self) -> None:
        seeds = set()
        for known in (
            facts(recurrence(1)),
            facts(recurrence(2)),
            facts(recurrence(1, attempt(1, Outcome.CRASHED))),
            facts(recurrence(1), job={"seed": 8}),
            facts(recurrence(1, kind=CONTROL)),
        ):
            (action,) = planned(known)
            assert isinstance(action, DecideAttempt)
            seeds.add(action.decision.seed)
        assert len(seeds) == 5

    def test_runs_of_other_recurrences_that_go_on(self) -> None:
        policy = ScriptedPolicy()
        other = recurrence(1, attempt(1, executions=(RUNNING,), decision=decision(16)))
        planned(facts(other, recurrence(2)), policy=policy)
        assert policy.asked[0][2].in_flight == (16,)

    def test_two_are_not_decided_at_once_without_knowing_of_each_other(self) -> None:
        both = (recurrence(1), recurrence(2))
        (first,) = planned(facts(*both), max_parallel=2, concurrencyPolicy="Allow")
        assert isinstance(first, DecideAttempt)
        assert first.recurrence_id == 10
        decided = recurrence(1, attempt(1, decision=first.decision))
        start, second = planned(
            facts(decided, recurrence(2)), max_parallel=2, concurrencyPolicy="Allow"
        )
        assert start == StartAttempt(101)
        assert isinstance(second, DecideAttempt)
        assert second.decision.situation is not None
        assert second.decision.situation.in_flight == (32,)


class TestFixedConfigurations:
    @pytest.mark.parametrize(
        ("kind", "mode", "policy_asked"),
        [(CONTROL, "Optimize", 0), (LEARNED, "Observe", 0), (LEARNED, "Recommend", 1)],
    )
    def test_control_observe_and_recommend_run_the_default_at_the_limit_found(
        self, kind: RecurrenceKind, mode: str, policy_asked: int
    ) -> None:
        policy = ScriptedPolicy()
        (action,) = planned(facts(recurrence(1, kind=kind)), policy=policy, mode=mode)
        assert isinstance(action, DecideAttempt)
        told = action.decision
        assert (told.batch_size, told.cost_threshold_joules, told.optimize_power) == (
            64,
            None,
            False,
        )
        assert told.policy == "default"
        assert len(policy.asked) == policy_asked
        if mode == "Recommend":
            assert "The policy would take 32: because" in told.sentence

    def test_control_runs_are_never_learned_from(self) -> None:
        done = attempt(1, executions=(ran(Outcome.REACHED),))
        (action,) = planned(facts(recurrence(1, done, kind=CONTROL)))
        assert isinstance(action, CloseAttempt)
        assert (action.outcome, action.learn) == (Outcome.REACHED, False)

    def test_observed_runs_are_learned_from(self) -> None:
        done = attempt(1, executions=(ran(Outcome.REACHED),))
        (action,) = planned(facts(recurrence(1, done)), mode="Observe")
        assert isinstance(action, CloseAttempt)
        assert action.learn

    @pytest.mark.parametrize(
        ("outcome", "again"),
        [
            (Outcome.CRASHED, True),
            (Outcome.LOST, True),
            (Outcome.MAX_EPOCHS, False),
            (Outcome.DIVERGED, False),
            (Outcome.NO_TELEMETRY, False),
        ],
    )
    def test_they_are_repeated_only_after_an_accident(self, outcome: Outcome, again: bool) -> None:
        default = decision(64, optimize_power=False)
        ended = attempt(1, outcome, decision=default)
        (action,) = planned(facts(recurrence(1, ended, kind=CONTROL)))
        assert isinstance(action, DecideAttempt) is again

    def test_what_another_mode_has_chosen_and_failed_is_followed_by_the_default(self) -> None:
        chosen = attempt(1, Outcome.OUT_OF_MEMORY, decision=decision(512))
        (action,) = planned(facts(recurrence(1, chosen)), mode="Observe")
        assert isinstance(action, DecideAttempt)
        assert (action.decision.batch_size, action.decision.optimize_power) == (64, False)


class TestRequests:
    def test_back_to_back_means_one_after_the_other(self) -> None:
        (action,) = planned(facts(requests=(request(3),)), at(1))
        assert isinstance(action, CreateRecurrence)
        assert (action.kind, action.ordinal, action.request_id) == (LEARNED, 1, 5)
        open_one = recurrence(1, attempt(1, executions=(RUNNING,)), request_id=5)
        busy = facts(open_one, requests=(request(3, created=1),))
        assert planned(busy, at(2), max_parallel=4, concurrencyPolicy="Allow") == []

    def test_no_more_are_made_than_were_asked_for(self) -> None:
        done = recurrence(1, attempt(1, Outcome.REACHED), state=RecurrenceState.REACHED)
        assert planned(facts(done, requests=(request(1, created=1, finished=0),))) == []

    def test_the_next_request_waits_for_the_first(self) -> None:
        first = request(1, created=1, finished=1)
        second = request(2, id=6, kind=CONTROL)
        done = recurrence(1, state=RecurrenceState.REACHED)
        (action,) = planned(facts(done, requests=(first, second)))
        assert isinstance(action, CreateRecurrence)
        assert (action.request_id, action.kind, action.ordinal) == (6, CONTROL, 1)

    def test_times_differ_even_if_the_clock_stands_still_or_goes_back(self) -> None:
        late = recurrence(1, state=RecurrenceState.REACHED, scheduled_time=at(1000))
        (action,) = planned(facts(late, requests=(request(3, created=1, finished=1),)), at(5))
        assert isinstance(action, CreateRecurrence)
        assert action.scheduled_time == at(1000) + timedelta(milliseconds=1)

    def test_a_request_never_takes_the_time_of_a_tick(self) -> None:
        (action,) = planned(facts(requests=(request(1),)), START)
        assert isinstance(action, CreateRecurrence)
        assert action.scheduled_time.microsecond == 1000


HOURLY: dict[str, Any] = {"schedule": "0 * * * *"}
NOON_AND_A_BIT = START + timedelta(hours=3, minutes=10)  # three ticks after the job was made


class TestSchedule:
    def test_only_the_latest_of_the_missed_ticks_runs(self) -> None:
        (action,) = planned(facts(), NOON_AND_A_BIT, **HOURLY)
        assert action == CreateRecurrence(
            1, LEARNED, 1, START + timedelta(hours=3), reason="2 earlier ticks were missed"
        )

    @pytest.mark.parametrize(
        ("hours", "reason"),
        [
            (1, ""),
            (2, "1 earlier tick was missed"),
            (101, "at least 100 earlier ticks were missed"),
            (5000, "at least 100 earlier ticks were missed"),
        ],
    )
    def test_the_reason_says_how_many_were_missed(self, hours: int, reason: str) -> None:
        (action,) = planned(facts(), START + timedelta(hours=hours), **HOURLY)
        assert isinstance(action, CreateRecurrence)
        assert action.reason == reason

    def test_a_tick_is_dealt_with_once(self) -> None:
        known = facts(last_scheduled_time=START + timedelta(hours=3))
        *actions, wait = planned_with_wait(known, NOON_AND_A_BIT, **HOURLY)
        assert actions == []
        assert wait == Wait(START + timedelta(hours=4))

    def test_a_new_incarnation_makes_up_for_nothing_before_its_time(self) -> None:
        known = facts(
            last_scheduled_time=START - timedelta(days=9),
            job={"created_at": START + timedelta(hours=3, minutes=5)},
        )
        assert planned(known, NOON_AND_A_BIT, **HOURLY) == []

    def test_a_tick_past_its_deadline_is_skipped_with_a_reason(self) -> None:
        (action,) = planned(facts(), NOON_AND_A_BIT, startingDeadlineSeconds=60, **HOURLY)
        assert isinstance(action, CreateRecurrence)
        assert (action.state, action.ordinal) == (RecurrenceState.SKIPPED, 0)
        assert "could not start within 60 s" in action.reason

    def test_forbid_lets_the_open_one_end_and_then_starts_the_latest_tick(self) -> None:
        open_one = recurrence(1, attempt(1, executions=(RUNNING,)))
        known = facts(open_one, last_scheduled_time=START + timedelta(hours=1))
        assert planned(known, NOON_AND_A_BIT, **HOURLY) == []
        ended = replace(open_one, state=RecurrenceState.REACHED)
        known = facts(ended, last_scheduled_time=START + timedelta(hours=1))
        (action,) = planned(known, NOON_AND_A_BIT, **HOURLY)
        assert isinstance(action, CreateRecurrence)
        assert (action.scheduled_time, action.ordinal) == (START + timedelta(hours=3), 2)

    def test_allow_runs_both_where_there_is_room(self) -> None:
        known = facts(recurrence(1, attempt(1, executions=(RUNNING,))))
        allow = {"concurrencyPolicy": "Allow", **HOURLY}
        (action,) = planned(known, NOON_AND_A_BIT, max_parallel=2, **allow)
        assert isinstance(action, CreateRecurrence)
        assert planned(known, NOON_AND_A_BIT, max_parallel=1, **allow) == []

    def test_replace_stops_closes_and_then_starts(self) -> None:
        replace_it = {"concurrencyPolicy": "Replace", **HOURLY}

        def next_step(**changes: Any) -> Any:
            known = facts(recurrence(1, attempt(1, **changes)))
            (action,) = planned(known, NOON_AND_A_BIT, **replace_it)
            return action

        stop = next_step(executions=(RUNNING,))
        assert isinstance(stop, StopAttempt)
        assert "15:00" in stop.reason
        closed = next_step(executions=(PREEMPTED,))
        assert isinstance(closed, CloseAttempt)
        assert (closed.outcome, closed.learn) == (Outcome.CANCELLED, False)
        by_itself = next_step(executions=(ran(Outcome.REACHED),))
        assert isinstance(by_itself, CloseAttempt)
        assert (by_itself.outcome, by_itself.learn) == (Outcome.REACHED, True)
        assert next_step(outcome=Outcome.CANCELLED) == CloseRecurrence(
            10, RecurrenceState.CANCELLED
        )
        cancelled = recurrence(1, state=RecurrenceState.CANCELLED)
        (created,) = planned(facts(cancelled), NOON_AND_A_BIT, **replace_it)
        assert isinstance(created, CreateRecurrence)

    def test_replace_spares_what_a_person_asked_for(self) -> None:
        open_one = recurrence(1, attempt(1, executions=(RUNNING,)), request_id=5)
        known = facts(open_one)
        assert planned(known, NOON_AND_A_BIT, concurrencyPolicy="Replace", **HOURLY) == []


class TestSuspensionAndPause:
    def test_a_suspended_job_starts_nothing_but_ends_what_is_open(self) -> None:
        suspended = {"suspended": True}
        *actions, wait = planned_with_wait(
            facts(requests=(request(1),), job=suspended), NOON_AND_A_BIT, **HOURLY
        )
        assert actions == []
        assert isinstance(wait, Wait)
        assert "suspended" in wait.reason
        assert planned(facts(recurrence(1, attempt(1)), job=suspended)) == [StartAttempt(101)]

    @staticmethod
    def failures(count: int) -> list[Any]:
        crashed = attempt(1, Outcome.CRASHED, detail="exit code 1: boom")
        return [recurrence(n, crashed, state=RecurrenceState.FAILED) for n in range(1, count + 1)]

    def test_failures_in_a_row_pause_the_job_and_say_why(self) -> None:
        known = facts(*self.failures(3), requests=(request(9, created=3, finished=3),))
        *actions, wait = planned_with_wait(known, NOON_AND_A_BIT, **HOURLY)
        assert actions == []
        assert isinstance(wait, Wait)
        assert wait.until is None
        assert "paused after 3 failed recurrences" in wait.reason
        assert "crashed: exit code 1: boom" in wait.reason

    @pytest.mark.parametrize(
        ("recurrences", "resumed_at"),
        [
            (failures(2), START),
            ([*failures(2), recurrence(3, state=RecurrenceState.REACHED), *failures(2)], START),
            (failures(3), at(101)),  # one of them was before the job was resumed
        ],
    )
    def test_fewer_failures_broken_rows_and_old_ones_do_not(
        self, recurrences: list[Any], resumed_at: Any
    ) -> None:
        known = facts(*recurrences, requests=(request(9),), job={"resumed_at": resumed_at})
        (action,) = planned(known)
        assert isinstance(action, CreateRecurrence)

    def test_cancelled_and_skipped_ones_neither_count_nor_break_the_row(self) -> None:
        between = recurrence(3, state=RecurrenceState.CANCELLED)
        known = facts(*self.failures(2), between, self.failures(4)[3], requests=(request(9),))
        assert planned(known) == []


def test_the_wait_is_for_the_next_tick() -> None:
    assert planned_with_wait(facts(), START, **HOURLY) == [Wait(START + timedelta(hours=1))]
    assert planned_with_wait(facts(), START) == [Wait(None)]
