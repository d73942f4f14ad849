"""The projected history as bytes: what is packed is read back, and what is no history is told."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from tests.support.histories import SPEC, Try, job_record, recurrence
from zeus_operator.history.document import (
    MAX_UNPACKED_BYTES,
    LeftOut,
    UnreadableHistory,
    read,
)
from zeus_operator.history.fitting import project
from zeus_operator.optimizer.types import Observation
from zeus_operator.records import JobRecord, RecurrenceKind, RecurrenceRecord
from zeus_operator.relearning import StoredObservation, Terms
from zeus_operator.report.findings import findings_of
from zeus_runtime.protocol import MetricMode, Outcome

HISTORY = [
    recurrence(1, [Try(256, default_batch_size=256, target=0.97, eta=0.5, metric_mode="Max")]),
    recurrence(2, [Try(512, Outcome.COST_EXCEEDED, 4, 900.0, 6.0), Try(256)]),
    recurrence(1, [Try(256, energy_joules=1101.0)], RecurrenceKind.CONTROL),
    recurrence(2, [Try(256, energy_joules=1102.0)], RecurrenceKind.CONTROL),
]
LEARNED = (
    StoredObservation(
        Observation(101, 1, 1, 256, Outcome.REACHED, 10, 1500.0, 150.0, milestones=((1, 0.5),)),
        Terms(0.97, MetricMode.MAX, 30, 0.5),
        energy_joules=1000.0,
        time_seconds=8.0,
        max_power_watts=250.0,
    ),
)


def packed(recurrences: list[RecurrenceRecord] = HISTORY, job: JobRecord | None = None) -> bytes:
    return project(job or job_record(), findings_of(recurrences, 0.5), recurrences, LEARNED)


def changed(**parts: Any) -> bytes:
    """Return a packed document with other parts; None takes one away."""
    document = json.loads(gzip.decompress(packed())) | parts
    kept = {name: value for name, value in document.items() if value is not None}
    return gzip.compress(json.dumps(kept).encode())


def test_what_is_packed_is_read_back() -> None:
    found = read(packed())

    assert found.findings == findings_of(HISTORY, 0.5)
    assert found.observations == LEARNED
    assert found.left_out == LeftOut()
    assert [r.id for r in found.recurrences] == [1, 2, 10_001, 10_002]
    for each, source in zip(found.recurrences, sorted(HISTORY, key=lambda r: r.id), strict=True):
        assert without_results(each) == without_results(source)
        assert [e.result for a in each.attempts for e in a.executions] == [None] * len(
            [e for a in source.attempts for e in a.executions]
        )


def without_results(recurrence: RecurrenceRecord) -> RecurrenceRecord:
    return replace(
        recurrence,
        attempts=tuple(
            replace(a, executions=tuple(replace(e, result=None) for e in a.executions))
            for a in recurrence.attempts
        ),
    )


def test_the_template_of_the_workload_stays_out() -> None:
    secret = {"name": "TOKEN", "value": "hunter2"}
    containers = [{"name": "train", "command": ["python"], "env": [secret]}]
    template = {"spec": {"template": {"spec": {"containers": containers}}}}
    job = job_record({**SPEC, "workload": {"template": template}})

    data = packed(job=job)

    assert b"hunter2" not in gzip.decompress(data)
    assert read(data).job.spec["objective"] == SPEC["objective"]


def test_what_people_have_asked_for_and_where_files_are_stays_out() -> None:
    asked = replace(job_record(), handled={"zeus.energy/run": "asked-by-hunter"})

    data = packed(job=asked)

    assert b"hunter" not in gzip.decompress(data)
    assert asked.manifest_path.encode() not in gzip.decompress(data)
    assert read(data).job.handled == {}


def test_results_and_outputs_of_runs_stay_out_but_for_the_note() -> None:
    run = HISTORY[0].attempts[0]
    result = run.executions[0].result
    assert result is not None
    execution = replace(
        run.executions[0], output_tail="secret", result=replace(result, note="no energy here")
    )
    history = [replace(HISTORY[0], attempts=(replace(run, executions=(execution,)),))]

    data = packed(history)
    found = read(data).recurrences[0].attempts[0].executions[0]

    assert b"secret" not in gzip.decompress(data)
    assert found.result is not None
    assert (found.result.note, found.result.power_profile) == ("no energy here", ())


def test_the_same_history_gives_the_same_bytes_in_whatever_order_it_comes() -> None:
    assert packed() == packed(HISTORY[::-1])
    text = gzip.decompress(packed()).decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_kept_and_the_json_stays_strict(value: float) -> None:
    odd = replace(HISTORY[0].attempts[0], best_metric=value)
    data = packed([replace(HISTORY[0], attempts=(odd,))])

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(gzip.decompress(data), parse_constant=refuse)
    found = read(data).recurrences[0].attempts[0].best_metric
    assert found is not None
    assert repr(found) == repr(value)


def test_words_of_any_language_and_broken_ones_are_kept() -> None:
    words = "größe 批量大小 🔋 \udc80"
    data = packed([recurrence(1, [Try(256, sentence=words)])])

    assert read(data).recurrences[0].attempts[0].decision.sentence == words


def test_a_newer_release_may_have_added_fields() -> None:
    document = json.loads(gzip.decompress(packed()))
    document["recurrences"][0]["of_tomorrow"] = {"a": 1}
    document["of_tomorrow"] = True

    assert len(read(changed(**document)).recurrences) == len(HISTORY)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "its end is missing"),
        (b"no gzip", "not compressed"),
        (packed()[:-20], "its end is missing"),
        (gzip.compress(b"no json"), "no JSON"),
        (gzip.compress(b"[" * 100_000), "no JSON"),
        (gzip.compress(b"[]"), "no JSON object"),
        (gzip.compress(b"{}"), "no version"),
        (changed(version="1"), "no version"),
        (changed(version=2), "version 2 and this program reads up to 1"),
        (changed(job=None), "broken: KeyError"),
        (changed(job=[]), "broken: TypeError"),
        (changed(recurrences=[{"id": "x"}]), "broken at 0.id"),
    ],
    # By number: what is compressed holds the time, and so would a test's name.
    ids=range(12),
)
def test_what_is_no_history_says_why(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableHistory, match=words):
        read(data)


def test_what_unpacks_to_more_than_any_history_is_not_unpacked() -> None:
    with pytest.raises(UnreadableHistory, match="unpacks to more than"):
        read(gzip.compress(b" " * (MAX_UNPACKED_BYTES + 1), 1))
