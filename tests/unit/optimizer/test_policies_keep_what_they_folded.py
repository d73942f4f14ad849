"""A policy folds what is new of a history; that is faster and changes no answer."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.optimizer_histories import ARMS, GPU, HistoryBuilder, problem
from tests.support.random_histories import histories, situations
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.folds import MOST_KEPT
from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_runtime.protocol import Outcome

every_policy = pytest.mark.parametrize("name", POLICY_NAMES)
ASKED = Situation(1, gpu_model=GPU)


class Counting(FoldingPolicy):
    """Chooses what it was taught last; counts what its learners are taught, in order."""

    name = "counting"

    def __init__(self) -> None:
        self.learners: list[CountingLearner] = []

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> Learner:
        self.learners.append(CountingLearner(problem, tuple(retired)))
        return self.learners[-1]

    @property
    def taught(self) -> list[list[int]]:
        return [learner.taught for learner in self.learners]


class CountingLearner(Learner):
    policy_name = "counting"

    def __init__(self, problem: Problem, retired: tuple[int, ...]) -> None:
        super().__init__(problem)
        self.retired = retired
        self.taught: list[int] = []

    def _learn(self, observation: Observation) -> None:
        if observation.cost_joules == 13.0:
            raise RuntimeError("an unlucky observation")
        self.taught.append(observation.attempt_id)

    def _choose(self, situation: Situation, seed: int) -> Choice:
        return Choice(self.problem.default_batch_size, float(len(self.taught)), "As counted.")


def job(length: int, cost: float = 100.0) -> tuple[Observation, ...]:
    history = HistoryBuilder()
    for _ in range(length):
        history.add(256, cost)
    return history.observations


def ask(asked: FoldingPolicy, observations: tuple[Observation, ...], **changes: int) -> Choice:
    return asked.choose(problem(**changes), observations, ASKED, 1)


def test_of_a_longer_history_only_what_is_new_is_observed():
    counting = Counting()
    for length in (3, 3, 5, 9):
        assert ask(counting, job(length)).cost_threshold_joules == length
    assert counting.taught == [list(range(1, 10))]


def test_a_history_that_was_loaded_anew_is_known_again():
    counting = Counting()
    ask(counting, job(4))
    ask(counting, tuple(replace(o) for o in job(4)))
    assert counting.taught == [[1, 2, 3, 4]]


def test_jobs_that_take_turns_are_each_folded_once():
    counting = Counting()
    for length in range(1, 6):
        for cost in (1.0, 2.0, 3.0):
            assert ask(counting, job(length, cost)).cost_threshold_joules == length
    assert counting.taught == [[1, 2, 3, 4, 5]] * 3


def test_a_shorter_history_is_folded_anew_and_the_longer_one_stays():
    counting = Counting()
    for length in (5, 2, 6, 3):
        assert ask(counting, job(length)).cost_threshold_joules == length
    assert counting.taught == [[1, 2, 3, 4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_history_that_differs_anywhere_is_folded_anew(changed):
    counting = Counting()
    before = job(5)
    ask(counting, before)
    other = list(before)
    other[changed] = replace(before[changed], epochs=11)
    ask(counting, tuple(other))
    assert len(counting.taught) == 2
    assert ask(counting, (*reversed(before),)).cost_threshold_joules == 5
    assert counting.taught[2] == [5, 4, 3, 2, 1]


def test_under_another_problem_a_history_is_folded_anew():
    counting = Counting()
    ask(counting, job(2))
    ask(counting, job(2), max_epochs=51)
    ask(counting, job(2), max_epochs=51)
    assert counting.taught == [[1, 2], [1, 2]]


def test_a_batch_size_that_nobody_knew_of_needs_a_learner_that_knows_it():
    counting = Counting()
    ask(counting, job(2))
    retired = replace(job(3)[2], batch_size=48)
    ask(counting, (*job(2), retired))
    ask(counting, (*job(2), retired, replace(retired, attempt_id=4)))
    assert [learner.retired for learner in counting.learners] == [(), (48,)]
    assert counting.taught == [[1, 2], [1, 2, 3, 4]]


def test_an_attempt_that_comes_twice_is_learned_once():
    counting = Counting()
    ask(counting, job(2))
    assert ask(counting, (*job(2), job(2)[0])).cost_threshold_joules == 2
    assert ask(counting, (*job(2), job(2)[0], job(3)[2])).cost_threshold_joules == 3
    assert counting.taught == [[1, 2, 3]]


def test_a_learner_that_failed_half_way_is_not_asked_again():
    counting = Counting()
    ask(counting, job(2))
    unlucky = replace(job(3)[2], cost_joules=13.0)
    with pytest.raises(RuntimeError, match="unlucky"):
        ask(counting, (*job(2), unlucky))
    assert ask(counting, job(2)).cost_threshold_joules == 2
    assert counting.taught == [[1, 2], [1, 2]]


def test_only_the_last_few_histories_are_kept():
    counting = Counting()
    costs = [float(cost) for cost in range(20, 20 + MOST_KEPT + 1)]
    for cost in costs:
        ask(counting, job(1, cost))
    ask(counting, job(2, costs[-1]))
    assert len(counting.learners) == MOST_KEPT + 1
    ask(counting, job(2, costs[0]))  # the one used longest ago
    assert len(counting.learners) == MOST_KEPT + 2


@every_policy
def test_a_copy_of_a_policy_starts_without_any_and_answers_alike(name):
    asked = policy(name)
    before = asked.choose(problem(), job(3), ASKED, 1)
    copied = pickle.loads(pickle.dumps(asked))  # our own
    assert copied.choose(problem(), job(3), ASKED, 1) == before


@every_policy
@settings(deadline=None, max_examples=25)
@given(data=st.data(), jobs=st.lists(histories(), min_size=1, max_size=3))
def test_whatever_it_was_asked_before_it_answers_like_one_asked_for_the_first_time(
    name, data, jobs
):
    asked = policy(name)
    for _ in range(6):
        history = data.draw(st.sampled_from(jobs))
        seen = history[: data.draw(st.integers(0, len(history)))]
        situation = data.draw(situations())
        offered = problem(max_attempts=data.draw(st.sampled_from((3, 21))))
        found = asked.choose(offered, seen, situation, 7)
        assert found == policy(name).choose(offered, seen, situation, 7)


@every_policy
def test_threads_may_share_a_policy(name):
    asked = policy(name)
    rows = [HistoryBuilder() for _ in range(4)]
    for number, history in enumerate(rows):
        for step in range(25):
            size = ARMS[(number + step) % 5]
            history.add(size, 100.0 + 7 * step, epochs=9 + step % 3)
        history.add(32, 5.0, Outcome.COST_EXCEEDED, epochs=1)

    def answers(history: HistoryBuilder) -> list[Choice]:
        return [ask(asked, history.observations[:n]) for n in range(1, 27)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answers, rows))

    for history, answered in zip(rows, found, strict=True):
        alone = [ask(policy(name), history.observations[:n]) for n in (1, 13, 26)]
        assert [answered[0], answered[12], answered[25]] == alone
