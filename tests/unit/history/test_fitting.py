"""What of a history fits: the newest whole, then reasons, then figures; the oldest go."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.histories import Try, job_record, recurrence
from zeus_operator.history.document import LeftOut, ProjectedHistory, read
from zeus_operator.history.fitting import MAX_BYTES, MAX_EXECUTIONS, MAX_TEXT, project
from zeus_operator.optimizer.types import Observation
from zeus_operator.records import RecurrenceRecord
from zeus_operator.relearning import StoredObservation
from zeus_operator.report.findings import CurvePoint, PowerCurve, findings_of
from zeus_operator.report.savings import measure
from zeus_runtime.protocol import Outcome


def runs(count: int, seed: int = 1) -> list[RecurrenceRecord]:
    """Return recurrences that no compressor can make small by their likeness."""
    chance = random.Random(seed)
    return [
        recurrence(
            ordinal,
            [
                Try(
                    chance.choice([32, 64, 128, 256]),
                    epochs=chance.randrange(5, 30),
                    energy_joules=chance.uniform(500.0, 2000.0),
                    time_seconds=chance.uniform(5.0, 20.0),
                    sentence=f"Because {chance.random()} is less than {chance.random()}.",
                    cost_threshold_joules=chance.uniform(3000.0, 9000.0),
                    default_batch_size=256,
                )
            ],
        )
        for ordinal in range(1, count + 1)
    ]


def observations(count: int) -> list[StoredObservation]:
    chance = random.Random(2)
    return [
        StoredObservation(
            Observation(
                *(number, number, 1, 256, Outcome.REACHED, 10, chance.random(), chance.random()),
                milestones=tuple((epoch, chance.random()) for epoch in range(10)),
            ),
            None,
            *(chance.random(), chance.random(), 250.0),
        )
        for number in range(count)
    ]


def fitted(
    recurrences: Sequence[RecurrenceRecord],
    learned: Sequence[StoredObservation] = (),
    most_bytes: int = MAX_BYTES,
) -> ProjectedHistory:
    data = project(job_record(), findings_of(recurrences, 0.5), recurrences, learned, most_bytes)
    assert len(data) <= most_bytes
    return read(data)


def test_a_short_history_is_whole() -> None:
    history = runs(50)

    found = fitted(history, observations(50))

    assert found.left_out == LeftOut()
    assert len(found.recurrences) == len(found.observations) == 50


def test_of_ten_thousand_the_newest_are_whole_and_the_oldest_are_counted() -> None:
    history = runs(10_000)

    found = fitted(history, observations(10_000))

    kept, left_out = found.recurrences, found.left_out
    whole = len(kept) - left_out.reasons - left_out.details
    assert [r.id for r in kept] == [r.id for r in history[-len(kept) :]]
    assert left_out.recurrences == 10_000 - len(kept)
    assert min(whole, left_out.reasons, left_out.details) > 100
    assert left_out.observations == 10_000
    for each, source in zip(kept[-whole:], history[-whole:], strict=True):
        assert each.attempts[0].decision == source.attempts[0].decision


def test_what_is_older_keeps_its_reason_and_what_is_oldest_its_figures() -> None:
    history = runs(3000)
    found = fitted(history)
    left_out = found.left_out

    oldest = found.recurrences[0].attempts[0]
    older = found.recurrences[left_out.reasons].attempts[0]

    source = history[left_out.recurrences].attempts[0]
    assert (oldest.decision.sentence, oldest.decision.candidates) == ("", ())
    assert oldest.decision.batch_size == source.decision.batch_size
    assert (oldest.outcome, oldest.epochs) == (source.outcome, source.epochs)
    assert oldest.energy_joules == pytest.approx(source.energy_joules, rel=1e-5)
    assert len(oldest.executions) == len(source.executions)
    assert older.decision.sentence.startswith("Because ")
    assert older.decision.candidates == ()


def test_savings_and_power_limits_are_those_of_the_whole_history() -> None:
    history = runs(5000)

    found = fitted(history)

    savings = measure(history)
    assert found.left_out.recurrences > 0
    assert found.findings.savings.overall == savings.overall
    assert found.findings.curves == findings_of(history, 0.5).curves
    assert found.findings.savings.compared == {r.id for r in found.recurrences}


def test_one_enormous_reason_is_cut_and_pushes_nothing_out() -> None:
    history = runs(20)
    chance = random.Random(3)
    enormous = " ".join(str(chance.random()) for _ in range(100_000))
    newest = history[-1].attempts[0]
    spoken = replace(newest, detail=enormous, decision=replace(newest.decision, sentence=enormous))
    history[-1] = replace(history[-1], attempts=(spoken,), reason=enormous)

    found = fitted(history)

    attempt = found.recurrences[-1].attempts[0]
    assert found.left_out == LeftOut()
    assert attempt.decision.sentence.endswith("…")
    assert max(len(attempt.decision.sentence), len(attempt.detail)) <= MAX_TEXT


def test_a_long_text_of_many_bytes_a_letter_is_cut_between_letters() -> None:
    found = fitted([recurrence(1, [Try(256, sentence="批量" * MAX_TEXT)])])

    sentence = found.recurrences[0].attempts[0].decision.sentence
    assert len(sentence.encode()) <= MAX_TEXT
    assert sentence.strip("批量") == "…"


def test_a_run_that_was_preempted_all_the_time_shows_its_last_executions() -> None:
    once = runs(1)[0]
    attempt = once.attempts[0]
    many = tuple(replace(attempt.executions[0], uid=f"pod-{n}") for n in range(1000))

    found = fitted([replace(once, attempts=(replace(attempt, executions=many),))])

    shown = found.recurrences[0].attempts[0].executions
    assert [each.uid for each in shown] == [f"pod-{n}" for n in range(1000 - MAX_EXECUTIONS, 1000)]


def test_power_limits_that_take_too_much_room_are_left_out() -> None:
    chance = random.Random(4)
    curves = tuple(
        PowerCurve(size, tuple(CurvePoint(*(chance.random() for _ in range(4))) for _ in range(99)))
        for size in range(1, 100)
    )
    history = runs(10)
    findings = replace(findings_of(history, 0.5), curves=curves)

    found = read(project(job_record(), findings, history, ()))

    assert found.left_out == LeftOut(curves=99)
    assert found.findings.curves == ()


@pytest.mark.parametrize("most_bytes", [4_096, 8_192, 20_000, 65_536])
def test_whatever_the_room_is_it_is_kept_to(most_bytes: int) -> None:
    found = fitted(runs(400), observations(400), most_bytes)

    assert len(found.recurrences) + found.left_out.recurrences == 400


def test_a_job_without_a_history_has_an_empty_one() -> None:
    found = fitted([])

    assert found.recurrences == ()
    assert found.left_out == LeftOut()
    assert found.job.key == "default/digits"
