"""The published policy against tables written from its rules, decision by decision."""

from __future__ import annotations

import pytest

from tests.support.zeus_histories import ScriptedHistory, histories
from zeus_operator.optimizer.types import Choice
from zeus_operator.optimizer.zeus import ZeusPolicy

HISTORIES = histories()

every_history = pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)


def choices(history: ScriptedHistory) -> list[Choice]:
    policy = ZeusPolicy(history.window)
    return [
        policy.choose(history.problem, decision.seen, decision.situation, history.seed)
        for decision in history.decisions
    ]


@every_history
def test_every_decision_is_the_one_that_the_published_rules_give(history: ScriptedHistory) -> None:
    found = [
        (decision.line, choice.batch_size, choice.cost_threshold_joules)
        for decision, choice in zip(history.decisions, choices(history), strict=True)
    ]
    assert found == [
        (decision.line, decision.batch_size, decision.cost_threshold_joules)
        for decision in history.decisions
    ]


@every_history
def test_a_learner_that_sees_each_run_as_it_ends_decides_the_same(history: ScriptedHistory) -> None:
    learner = ZeusPolicy(history.window).begin(history.problem)
    for decision in history.decisions:
        for observation in decision.seen:
            learner.observe(observation)
        choice = learner.choose(decision.situation, history.seed)
        assert (decision.line, choice.batch_size, choice.cost_threshold_joules) == (
            decision.line,
            decision.batch_size,
            decision.cost_threshold_joules,
        )


@pytest.mark.parametrize(
    "history",
    [history for history in HISTORIES if any(d.draws for d in history.decisions)],
    ids=lambda history: history.name,
)
def test_thompson_sampling_draws_from_the_mean_and_spread_of_the_arms_own_costs(
    history: ScriptedHistory,
) -> None:
    for decision, choice in zip(history.decisions, choices(history), strict=True):
        drawn = {
            candidate.batch_size: candidate.drawn_cost_joules
            for candidate in choice.candidates
            if candidate.drawn_cost_joules is not None
        }
        if decision.draws:
            assert drawn == pytest.approx(decision.draws, abs=1e-5)


def test_there_are_fifty_histories_and_each_shows_something_of_its_own() -> None:
    assert len(HISTORIES) >= 50
    assert len({history.name for history in HISTORIES}) == len(HISTORIES)
    assert sum(len(history.decisions) for history in HISTORIES) >= 350
