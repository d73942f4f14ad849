"""The report: one page that needs nothing else, made from a stored history."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from tests.support.histories import GPU_MODEL, Try, job_record, recurrence, store_history
from zeus_operator.records import RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_operator.report import charts
from zeus_operator.report.estimate import Estimate
from zeus_operator.report.findings import power_curves
from zeus_operator.report.model import gather
from zeus_operator.report.page import render
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Page(HTMLParser):
    """Collects ids, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "use", "rect", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.stack: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] != ["style"]:
            self.text += data


def some_history() -> list[RecurrenceRecord]:
    learned = [
        recurrence(1, [Try(256)]),
        recurrence(2, [Try(512, Outcome.COST_EXCEEDED, 4, 900.0, 6.0), Try(256)]),
        recurrence(3, [Try(128, energy_joules=650.0, time_seconds=5.0)]),
        recurrence(4, [Try(128, energy_joules=640.0, time_seconds=5.1)]),
    ]
    control = [
        recurrence(
            n, [Try(256, energy_joules=1100.0 + n, power_limit_watts=None)], RecurrenceKind.CONTROL
        )
        for n in (1, 2, 3)
    ]
    return [*learned, *control]


@pytest.mark.postgres
def test_a_stored_history_becomes_a_page_with_everything_on_it(store: Store) -> None:
    job = store_history(store, some_history())

    page = Page(render(gather(job, store.history(job.id), NOW)))

    assert page.stack == []
    for words in (
        "default/digits",
        "Cost of each recurrence",
        "Cost so far",
        "Batch sizes tried",
        "Power limits",
        "stopped: cost over the threshold",
        "Because it is expected to cost least.",
        "Measured on a simulated GPU",
        GPU_MODEL,
        "95 % interval",
    ):
        assert words in page.text


def test_the_page_loads_nothing_from_anywhere() -> None:
    text = render(gather(job_record(), some_history(), NOW))
    page = Page(text)

    assert all(link.startswith("#") for link in page.links)
    assert "<script" not in text
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_ids_of_the_figures_do_not_collide_and_every_reference_is_there() -> None:
    text = render(gather(job_record(), some_history(), NOW))
    page = Page(text)

    assert len(page.ids) == len(set(page.ids))
    referred = {link[1:] for link in page.links} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert referred <= set(page.ids)


def test_figures_take_their_colours_from_the_page_so_that_dark_pages_work() -> None:
    text = render(gather(job_record(), some_history(), NOW))

    assert "var(--learned)" in text
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]\b", text)  # no marker colour is left
    assert "prefers-color-scheme: dark" in text


def test_the_same_history_gives_the_same_page() -> None:
    data = gather(job_record(), some_history(), NOW)

    assert render(data) == render(data)


def test_text_from_scripts_and_manifests_is_escaped() -> None:
    tries = [Try(256, sentence="<script>alert(1)</script> & more")]

    text = render(gather(job_record(), [recurrence(1, tries)], NOW))

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_a_job_without_history_has_a_page_that_says_so() -> None:
    page = Page(render(gather(job_record(), [], NOW)))

    assert "No recurrence has ended yet." in page.text
    assert "Savings are not known yet" in page.text
    assert "Cost of each recurrence" not in page.text


def test_a_job_without_energy_has_a_page_without_costs() -> None:
    page = Page(render(gather(job_record(), [recurrence(1, [Try(256, energy_joules=None)])], NOW)))

    assert "Cost of each recurrence" not in page.text
    assert "Batch sizes tried" in page.text


def test_costs_of_another_gpu_are_not_drawn_beside_those_of_the_newest() -> None:
    before = [recurrence(n, [Try(256, energy_joules=7e9, gpu_model="A40")]) for n in (1, 2)]
    after = [recurrence(n, [Try(256, energy_joules=900.0)]) for n in (3, 4)]
    control = [recurrence(1, [Try(256)], RecurrenceKind.CONTROL)]
    data = gather(job_record(), [*before, *after, *control], NOW)
    page = Page(render(data))

    assert [r.ordinal for r in data.compared] == [3, 4]
    assert [r.ordinal for r in data.learned] == [1, 2, 3, 4]
    assert "GJ" not in page.text.split("Decisions")[0]
    assert f"2 recurrences on A40 (now {GPU_MODEL})" in page.text


def test_what_was_spent_stands_beside_as_many_finished_models_as_in_the_headline() -> None:
    """A recurrence without a model adds to what was spent and nothing to the default's side."""
    default = Estimate.exactly(1500.0, 3)
    reached = [recurrence(n, [Try(128)]) for n in (1, 2)]
    one_failed = [reached[0], replace(reached[1], state=RecurrenceState.FAILED)]

    assert charts.cumulative_cost(reached, default) != charts.cumulative_cost(one_failed, default)


def test_what_ran_under_observe_is_not_drawn_as_spent_by_a_policy() -> None:
    observed = [recurrence(n, [Try(256, policy="default")]) for n in (1, 2, 3, 4)]
    learned = [recurrence(n, [Try(128)]) for n in (5, 6)]
    only_observed, both = (
        gather(job_record(), records, NOW) for records in (observed, [*observed, *learned])
    )

    assert [r.ordinal for r in both.compared_learned] == [5, 6]
    assert [r.ordinal for r in both.compared] == [1, 2, 3, 4, 5, 6]
    assert "Cost so far" in render(both)
    assert "Cost so far" not in render(only_observed)
    assert "Cost of each recurrence" in render(only_observed)


def test_batch_sizes_that_the_manifest_no_longer_names_are_drawn_as_they_were_tried() -> None:
    history = [recurrence(1, [Try(4096)]), recurrence(2, [Try(256)])]
    page = Page(render(gather(job_record(), history, NOW)))

    assert "4096" in page.text.split("Batch sizes tried")[1].split("Decisions")[0]


def test_a_result_that_makes_no_sense_leaves_the_page_standing() -> None:
    odd = recurrence(1, [Try(256)])
    (attempt,) = odd.attempts
    (execution,) = attempt.executions
    assert execution.result is not None
    execution = replace(execution, result=replace(execution.result, batch_size=0))
    odd = replace(odd, attempts=(replace(attempt, executions=(execution,)),))

    assert power_curves([odd], eta=0.5) == ()


def test_power_curves_are_per_thousand_samples_at_the_jobs_preference() -> None:
    (curve,) = power_curves([recurrence(1, [Try(256)])], eta=0.0)

    assert curve.batch_size == 256
    limits = [point.power_limit_watts for point in curve.points]
    assert limits == sorted(limits)
    for point in curve.points:
        assert point.cost_joules == pytest.approx(250.0 * point.time_seconds)
        assert point.energy_joules == pytest.approx(
            0.92 * point.power_limit_watts * point.time_seconds
        )
