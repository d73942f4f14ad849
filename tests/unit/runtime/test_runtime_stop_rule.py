"""The stop rule of a decision is asked after each epoch, and can never break training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.runtime_lab import RuntimeLab, decided
from tests.support.stop_rules import RULE, ScriptedRule
from zeus_runtime.judge import Judge
from zeus_runtime.progress import MetricRecord
from zeus_runtime.protocol import Decision, MetricMode, Outcome, StopRuleError
from zeus_runtime.settings import RunSettings
from zeus_runtime.stop import Ending
from zeus_runtime.stopping import CostSoFar

DECISION = Decision(batch_size=64, target=0.9, metric_mode="Max", max_epochs=10)


def metric(*values: float) -> MetricRecord:
    record = MetricRecord(MetricMode.MAX, 0.9)
    for epoch, value in enumerate(values, start=1):
        record.report(epoch, value)
    return record


def ending(
    rule: ScriptedRule, record: MetricRecord, so_far: CostSoFar | None, **changes: object
) -> Ending | None:
    decision = replace(DECISION, stop_rule=rule, cost_threshold_joules=changes.get("threshold"))
    judge = Judge(decision, 10, applied=bool(changes.get("applied", True)))
    return judge.between_epochs(record, 10 if so_far is None else so_far.epochs, so_far)


def test_a_run_ends_after_the_epoch_from_which_the_rule_would_not_go_on() -> None:
    rule = ScriptedRule(lambda epochs: epochs < 3)
    assert ending(rule, metric(0.1, 0.2), CostSoFar(2, 40.0, 20.0)) is None
    stopped = ending(rule, metric(0.1, 0.2, 0.15), CostSoFar(3, 60.0, 20.0))
    assert stopped is not None
    assert (stopped.outcome, stopped.stops_script) == (Outcome.COST_EXCEEDED, True)
    for figure in ("3 epochs", "60 J", "0.2", "0.9", "20 J"):
        assert figure in stopped.reason
    assert rule.asked[-1] == (3, ((1, 0.1), (2, 0.2)), 20.0)


def test_what_an_epoch_costs_is_the_mean_so_far_where_it_was_not_measured() -> None:
    rule = ScriptedRule(lambda epochs: True)
    assert ending(rule, metric(0.1, 0.2), CostSoFar(2, 50.0)) is None
    assert rule.asked == [(2, ((1, 0.1), (2, 0.2)), 25.0)]


@pytest.mark.parametrize(
    ("record", "so_far", "changes"),
    [
        pytest.param(metric(0.1), CostSoFar(1, 20.0, 20.0), {"applied": False}, id="not applied"),
        pytest.param(metric(), CostSoFar(0, 0.0, 20.0), {}, id="before the first epoch"),
        pytest.param(metric(), CostSoFar(2, 40.0, 20.0), {}, id="no metric was reported"),
        pytest.param(metric(0.1), CostSoFar(1, 0.0), {}, id="an epoch costs nothing"),
        pytest.param(metric(0.1, 0.95), CostSoFar(2, 40.0, 20.0), {}, id="reached"),
        pytest.param(metric(0.1), CostSoFar(1, 20.0, 20.0), {"threshold": 30.0}, id="too dear"),
    ],
)
def test_the_rule_is_not_asked(
    record: MetricRecord, so_far: CostSoFar, changes: dict[str, object]
) -> None:
    rule = ScriptedRule(lambda epochs: False)
    ending(rule, record, so_far, **changes)
    assert rule.asked == []


def test_epochs_without_a_metric_are_not_held_against_the_run() -> None:
    rule = ScriptedRule(lambda epochs: True)
    ending(rule, metric(0.1), CostSoFar(4, 80.0, 20.0))
    assert rule.asked == [(1, ((1, 0.1),), 20.0)]


def test_a_metric_of_the_untrained_model_does_not_keep_the_rule_from_being_asked() -> None:
    said: list[str] = []
    judge = Judge(replace(DECISION, stop_rule=RULE), 10, warn=said.append)
    record = MetricRecord(MetricMode.MAX, 0.9)
    for epoch, value in enumerate([RULE.levels[0].metric, 0.6]):
        record.report(epoch, value)  # from 0: before the first epoch
    judge.between_epochs(record, 1, CostSoFar(1, 20.0, 20.0))
    assert said == []


def test_a_rule_that_raises_is_complained_of_and_does_not_end_the_run() -> None:
    def broken(epochs: int) -> bool:
        raise ZeroDivisionError("no levels")

    said: list[str] = []
    judge = Judge(replace(DECISION, stop_rule=ScriptedRule(broken)), 10, warn=said.append)
    assert judge.between_epochs(metric(0.1), 1, CostSoFar(1, 20.0, 20.0)) is None
    assert said == ["the stop rule can't be asked (ZeroDivisionError: no levels)"]


MALFORMED = [
    5,
    {"rule_of_a_newer_release": 1},
    [],
    "soon",
    {"levels": [{}]},
    {**RULE.to_body(), "cap_joules": 10**400},
]


@pytest.mark.parametrize("raw", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_rule_leaves_the_rest_of_the_decision_as_it_was(raw: object) -> None:
    body = {**json.loads(DECISION.to_json()), "stop_rule": raw}
    with pytest.raises(StopRuleError, match=r"ZEUS_DECISION\.stop_rule") as caught:
        Decision.from_json(json.dumps(body))
    assert caught.value.decision == DECISION
    settings = RunSettings.from_environment({"ZEUS_DECISION": json.dumps(body)})
    assert (settings.decision, settings.decision_error) == (DECISION, "")
    assert "stop_rule" in settings.rule_error


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


def test_a_run_with_a_malformed_rule_says_so_once_and_trains_to_its_end(lab: RuntimeLab) -> None:
    body = {**json.loads(decided().to_json()), "stop_rule": {"levels": 5}}
    environ = lab.environ(json.dumps(body), agent=False)
    ended = lab.run({"metrics": [0.1, 0.1, 0.95], "steps": 30}, environ)
    assert ended.result is not None
    assert (ended.exit_code, ended.result.outcome) == (0, "reached"), ended.errors
    assert ended.errors.count("Training goes on without it") == 1


def test_the_energy_of_a_run_with_a_rule_alone_is_asked_for(lab: RuntimeLab) -> None:
    environ = lab.environ(decided(stop_rule=RULE), agent=False, CUDA_VISIBLE_DEVICES="")
    ended = lab.run({"metrics": [0.1, 0.95]}, environ)
    assert ended.result is not None
    assert (ended.exit_code, ended.result.outcome) == (0, "reached"), ended.errors
    assert ended.errors.count("the stop rule is not applied") == 1


def test_a_real_rule_ends_a_run_that_can_no_longer_pay_off(lab: RuntimeLab) -> None:
    # The best batch size known makes a model for a joule: no epoch of this run is worth it.
    hopeless = replace(RULE, best_cost_joules=1.0, cap_joules=1e9, budget_joules=1e9)
    environ = lab.environ(decided(stop_rule=hopeless), agent=False)
    ended = lab.run({"metrics": [0.1, 0.1, 0.95], "steps": 30}, environ)
    assert ended.result is not None
    assert (ended.exit_code, ended.result.outcome) == (86, "cost_exceeded"), ended.errors
    assert ended.result.epochs == 1
    assert "training stops" in ended.errors


def test_a_real_rule_lets_a_run_go_on_while_it_promises_a_cheaper_model(lab: RuntimeLab) -> None:
    promising = replace(RULE, best_cost_joules=1e6, cap_joules=1e9, budget_joules=1e9)
    environ = lab.environ(decided(stop_rule=promising), agent=False)
    ended = lab.run({"metrics": [0.1, 0.1, 0.95], "steps": 30}, environ)
    assert ended.result is not None
    assert (ended.exit_code, ended.result.outcome) == (0, "reached"), ended.errors
