"""What Prometheus is shown of a job, from its history and its status."""

from __future__ import annotations

import pytest

from tests.support.histories import Try, recurrence
from zeus_operator.records import RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_operator.status.history import summarize
from zeus_operator.status.series import series_of, with_status
from zeus_runtime.protocol import Outcome

FULL_POWER_EPOCH = (100.0, 0.8)
FIRST = Try(256, observations_seen=0, cost_threshold_joules=None, full_power_epoch=FULL_POWER_EPOCH)
CRASHED = Try(256, Outcome.CRASHED, energy_joules=50.0, time_seconds=2.0)


def with_savings() -> tuple[RecurrenceRecord, ...]:
    learned = [recurrence(1, [FIRST]), recurrence(2, [CRASHED, Try(128, energy_joules=600.0)])]
    learned += [recurrence(n, [Try(128, energy_joules=600.0)]) for n in range(3, 8)]
    control = Try(256, full_power_epoch=FULL_POWER_EPOCH)
    return (*learned, *(recurrence(n, [control], RecurrenceKind.CONTROL) for n in range(1, 4)))


def test_both_sides_of_the_savings_are_of_the_same_models_and_make_the_fraction() -> None:
    history = with_savings()
    series = series_of(history, summarize(history))
    energy = series.saved["energy"]
    assert energy.compared == 1000.0 + 50.0 + 6 * 600.0, "all attempts of what was learned"
    assert energy.default == 7 * 1000.0, "seven models"
    for of, saved in series.saved.items():
        assert series.saved_ratios[of] == pytest.approx(1.0 - saved.compared / saved.default)
        assert saved.low <= series.saved_ratios[of] <= saved.high


def test_while_savings_are_not_known_nothing_is_shown_of_them() -> None:
    history = (recurrence(1, [FIRST]),)
    series = series_of(history, summarize(history))
    assert not series.saved
    assert not series.saved_ratios


def test_what_is_open_is_not_counted_so_that_no_counter_falls() -> None:
    history = (
        recurrence(1, [FIRST]),
        recurrence(2, [Try(128)], state=RecurrenceState.OPEN),
        recurrence(3, [], state=RecurrenceState.SKIPPED),
    )
    assert series_of(history, summarize(history)).recurrences == {"reached": 1, "skipped": 1}


def test_failures_in_a_row_end_with_a_model_and_pass_over_what_did_not_run() -> None:
    failed = [recurrence(n, [CRASHED]) for n in (2, 3, 5)]
    skipped = recurrence(4, [], state=RecurrenceState.SKIPPED)
    history = (recurrence(1, [FIRST]), *failed[:2], skipped, failed[2])
    assert series_of(history, summarize(history)).failures_in_row == 3
    healed = (*history, recurrence(6, [Try(128)]))
    assert series_of(healed, summarize(healed)).failures_in_row == 0


def test_the_last_run_is_the_one_that_ended_last_with_all_its_attempts() -> None:
    last = recurrence(9, [CRASHED, Try(128, energy_joules=600.0, time_seconds=6.0)])
    cancelled = recurrence(10, [], state=RecurrenceState.CANCELLED)
    history = (recurrence(1, [FIRST]), last, cancelled)
    run = series_of(history, summarize(history)).last_run
    assert run is not None
    assert (run.energy_joules, run.time_seconds) == (650.0, 8.0)
    assert last.ended_at is not None
    assert run.ended_at_seconds == last.ended_at.timestamp()
    assert run.cost_joules == last.cost_joules


def test_what_was_not_measured_of_the_last_run_is_not_shown_as_nothing() -> None:
    history = (recurrence(1, [Try(256, Outcome.NO_TELEMETRY, energy_joules=None)]),)
    series = series_of(history, summarize(history))
    assert series.last_run is not None
    assert series.last_run.energy_joules is series.last_run.cost_joules is None
    assert series.cost_joules is None


def test_conditions_go_with_their_reasons_and_say_whether_the_batch_size_is_settled() -> None:
    status = {
        "conditions": [
            {"type": "Degraded", "status": "True", "reason": "PausedAfterFailures"},
            {"type": "Converged", "status": "True", "reason": "Converged"},
            {"type": "Ready", "status": "Unknown", "reason": "StoreUnavailable"},
        ]
    }
    series = with_status(series_of((), summarize(())), status)
    assert series.conditions == {
        "Degraded": (True, "PausedAfterFailures"),
        "Converged": (True, "Converged"),
        "Ready": (False, "StoreUnavailable"),
    }
    assert series.converged
    assert with_status(series, {}).converged is False
