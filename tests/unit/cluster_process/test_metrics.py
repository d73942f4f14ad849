"""Metrics: the process's own counters, and the store's sums of each job."""

from __future__ import annotations

import logging
import math

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from zeus_operator.job_series import LastRun, Saved
from zeus_operator.metrics import JobSeries, Metrics
from zeus_operator.workqueue import WorkQueue

SERIES = JobSeries(
    decisions={"zeus": 5, "default": 1},
    attempts={"reached": 4, "crashed": 1},
    recurrences={"reached": 4},
    energy_joules=1234.5,
    time_seconds=60.0,
    cost_joules=2000.0,
    saved_ratios={"energy": 0.25},
    saved={"energy": Saved(compared=750.0, default=1000.0, low=0.2, high=0.3)},
    failures_in_row=2,
    last_run=LastRun(ended_at_seconds=1.7e9, energy_joules=300.0),
    batch_size=512,
    converged=True,
    conditions={"Degraded": (True, "NoPod")},
)


def samples(metrics: Metrics) -> dict[str, float]:
    text = generate_latest(metrics.registry).decode()
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_job(metrics: Metrics, job: str) -> dict[str, float]:
    return {
        name: value for name, value in samples(metrics).items() if f"('zeusjob', '{job}')" in name
    }


def test_a_job_shows_the_sums_of_the_store() -> None:
    metrics = Metrics()
    metrics.jobs.show(("vision", "cifar"), SERIES)
    space, job = "('namespace', 'vision')", "('zeusjob', 'cifar')"
    of_energy = f"[{space}, ('of', 'energy'), {job}]"
    assert of_job(metrics, "cifar") == {
        f"zeus_operator_decisions_total[{space}, ('policy', 'zeus'), {job}]": 5,
        f"zeus_operator_decisions_total[{space}, ('policy', 'default'), {job}]": 1,
        f"zeus_operator_attempts_total[{space}, ('outcome', 'reached'), {job}]": 4,
        f"zeus_operator_attempts_total[{space}, ('outcome', 'crashed'), {job}]": 1,
        f"zeus_operator_recurrences_total[{space}, ('state', 'reached'), {job}]": 4,
        f"zeus_job_energy_joules_total[{space}, {job}]": 1234.5,
        f"zeus_job_time_seconds_total[{space}, {job}]": 60,
        f"zeus_job_cost_joules_total[{space}, {job}]": 2000,
        f"zeus_job_saved_ratio{of_energy}": 0.25,
        f"zeus_job_saved_ratio_low{of_energy}": 0.2,
        f"zeus_job_saved_ratio_high{of_energy}": 0.3,
        f"zeus_job_compared_energy_joules[{space}, {job}]": 750,
        f"zeus_job_default_energy_joules[{space}, {job}]": 1000,
        f"zeus_job_failures_in_row[{space}, {job}]": 2,
        f"zeus_job_last_run_end_timestamp_seconds[{space}, {job}]": 1700000000,
        f"zeus_job_last_run_energy_joules[{space}, {job}]": 300,
        f"zeus_job_batch_size[{space}, {job}]": 512,
        f"zeus_job_converged[{space}, {job}]": 1,
        f"zeus_job_condition[('condition', 'Degraded'), {space}, ('reason', 'NoPod'), {job}]": 1,
    }


def test_what_is_not_known_of_a_job_has_no_series() -> None:
    metrics = Metrics()
    metrics.jobs.show(("vision", "new"), JobSeries())
    assert {name.split("[")[0] for name in of_job(metrics, "new")} == {
        "zeus_job_energy_joules_total",
        "zeus_job_time_seconds_total",
    }


def test_showing_a_job_again_replaces_its_sums_and_never_adds_to_them() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.jobs.show(("vision", "cifar"), SERIES)
    assert 1234.5 in of_job(metrics, "cifar").values()
    assert 3 * 1234.5 not in of_job(metrics, "cifar").values()


def test_a_deleted_job_disappears() -> None:
    metrics = Metrics()
    metrics.jobs.show(("vision", "cifar"), SERIES)
    metrics.jobs.remove(("vision", "cifar"))
    metrics.jobs.remove(("vision", "never-seen"))
    assert not of_job(metrics, "cifar")


def test_who_leads_no_more_shows_no_job() -> None:
    metrics = Metrics()
    metrics.jobs.show(("vision", "cifar"), SERIES)
    metrics.jobs.clear()
    assert not of_job(metrics, "cifar")


def test_jobs_beyond_the_bound_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(jobs_shown=2)
    with caplog.at_level(logging.WARNING):
        for job in ("a", "b", "c", "d", "c"):
            metrics.jobs.show(("vision", job), SERIES)
    assert of_job(metrics, "b")
    assert not of_job(metrics, "c")
    assert samples(metrics)["zeus_operator_jobs_without_series"] == 2
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "metrics show the first 2 jobs only"
    ]


def test_room_that_becomes_free_is_used() -> None:
    metrics = Metrics(jobs_shown=1)
    metrics.jobs.show(("vision", "a"), SERIES)
    metrics.jobs.show(("vision", "b"), SERIES)
    metrics.jobs.remove(("vision", "a"))
    metrics.jobs.show(("vision", "b"), SERIES)
    assert of_job(metrics, "b")
    assert samples(metrics)["zeus_operator_jobs_without_series"] == 0


def test_reconciles_are_timed_and_their_failures_counted_by_reason() -> None:
    metrics = Metrics()
    metrics.reconciled(0.02)
    metrics.reconciled(3)
    metrics.reconcile_failed("conflict")
    found = samples(metrics)
    assert found["zeus_operator_reconcile_seconds_count"] == 2
    assert found["zeus_operator_reconcile_seconds_sum"] == pytest.approx(3.02)
    assert found["zeus_operator_reconcile_errors_total[('reason', 'conflict')]"] == 1
    assert found["zeus_operator_reconcile_errors_total[('reason', 'internal')]"] == 0


def test_a_reason_that_is_not_of_the_list_can_not_become_a_label() -> None:
    with pytest.raises(ValueError, match="none of the reasons"):
        Metrics().reconcile_failed("connection to 10.0.0.7 refused")


def test_the_state_of_the_process_is_read_at_each_scrape() -> None:
    metrics = Metrics()
    queue: WorkQueue[str] = WorkQueue(clock=lambda: now)
    ages: dict[str, float | None] = {"zeusjobs": None}
    leads = up = False
    now = 100.0
    metrics.read_queue(lambda: queue.depth, lambda: queue.oldest_age_seconds, lambda: queue.delayed)
    metrics.read_watch("zeusjobs", lambda: ages["zeusjobs"])
    metrics.read_leader(lambda: leads)
    metrics.read_store(lambda: up)

    before = samples(metrics)
    queue.add("a")
    queue.add_after("b", 60)
    now, leads, up, ages["zeusjobs"] = 107.0, True, True, 4.0
    after = samples(metrics)

    names = {
        "zeus_operator_queue_depth": (0, 1),
        "zeus_operator_queue_oldest_seconds": (0, 7),
        "zeus_operator_queue_delayed": (0, 1),
        "zeus_operator_leader": (0, 1),
        "zeus_operator_store_up": (0, 1),
    }
    assert {name: (before[name], after[name]) for name in names} == names
    age = "zeus_operator_watch_proof_age_seconds[('resource', 'zeusjobs')]"
    assert math.isnan(before[age])
    assert after[age] == 4
