"""The drifting sentiment example: what window a recurrence trains on, and its script end to end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import examples
from tests.support.forked_scripts import Script, Scripts
from tests.support.runtime_lab import RuntimeLab
from zeus_runtime.protocol import STOP_EXIT_CODE, Decision, Outcome

DECISION = Decision(
    batch_size=16, target=0.75, metric_mode="Max", max_epochs=30, learning_rate=0.003, seed=1
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    machine.start_agent()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.make_slice("capriccio", tmp_path_factory.mktemp("capriccio") / "slice.csv")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    folder = tmp_path_factory.mktemp("scripts")
    with examples.forked(folder, "transformers.models.bert.modeling_bert") as made:
        yield made


def start(
    lab: RuntimeLab, scripts: Scripts, data: Path, decision: Decision, *more: str, **variables: str
) -> Script:
    words = [
        *examples.script_and_arguments("capriccio", decision),
        *(f"--data={data}", "--model=", "--workers=0", "--hidden=32", "--layers=1"),
        *("--window=600", "--step=100", f"--checkpoints={lab.folder / 'checkpoints'}", *more),
    ]
    return scripts.start(words, lab.environ(decision, OMP_NUM_THREADS="1", **variables))


# The script ------------------------------------------------------------------------


@pytest.mark.torch
def test_it_trains_on_the_window_of_its_recurrence_until_it_is_good_enough(
    lab: RuntimeLab, scripts: Scripts, data: Path
) -> None:
    models = [lab.folder / "first", lab.folder / "second"]
    ran = start(lab, scripts, data, DECISION, f"--save={models[0]}", ZEUS_RECURRENCE="2").end()

    result = lab.result()
    assert ran.exit_code == 0, ran.errors
    assert "window 3 of 25: sentences 200 to 799" in ran.output
    assert result is not None
    assert (result.outcome, result.batch_size) == (Outcome.REACHED.value, 16)
    assert examples.epochs_told(ran.output) == list(range(1, result.epochs + 1))
    assert result.epochs > 1, "it knew nothing when it began"
    assert result.energy_joules is not None
    assert 0.0 < result.energy_joules < lab.simulator.true_energy_joules(0)
    assert list((lab.folder / "checkpoints").iterdir()) == []

    # What was saved is a trained model like any other: the next recurrence begins with it.
    trained = (f"--model={models[0]}", f"--save={models[1]}")
    then = start(lab, scripts, data, DECISION, *trained, ZEUS_RECURRENCE="3").end()

    following = lab.result()
    assert then.exit_code == 0, then.errors
    assert "window 4 of 25: sentences 300 to 899" in then.output
    assert following is not None
    assert following.recurrence == "3"
    assert following.epochs < result.epochs
    assert (models[1] / "config.json").exists()


@pytest.mark.torch
def test_an_interrupted_run_goes_on_and_one_that_misses_its_target_saves_no_model(
    lab: RuntimeLab, scripts: Scripts, data: Path
) -> None:
    endless = replace(DECISION, batch_size=32, target=2.0, max_epochs=1000)
    first = start(lab, scripts, data, endless, "--max-epochs=1000")
    first.says("epoch 3:")
    first.kill()
    (kept,) = (lab.folder / "checkpoints").glob("*.pt")
    epochs = torch.load(kept, weights_only=True)["zeus"]["epochs"]

    last = replace(endless, max_epochs=epochs + 1)
    more = ("--max-epochs=1000", f"--save={lab.folder / 'model'}")
    ran = start(lab, scripts, data, last, *more).end()

    result = lab.result()
    assert ran.exit_code == STOP_EXIT_CODE, ran.errors
    assert result is not None
    assert (result.outcome, result.epochs) == (Outcome.MAX_EPOCHS.value, epochs + 1)
    assert result.carried_epochs == epochs >= 2
    assert examples.epochs_told(ran.output) == [epochs + 1]
    assert not (lab.folder / "model").exists()
    assert list((lab.folder / "checkpoints").glob("*.pt")) == []


# The window ------------------------------------------------------------------------


def read(data: Path) -> list[Any]:
    sentences: list[Any] = examples.module("capriccio", "sentences").read_sentences(data)
    return sentences


def window_of(sentences: Sequence[Any], recurrence: int, size: int = 600, step: int = 100) -> Any:
    window = examples.module("capriccio", "sentences").window_of
    return window(sentences, recurrence, size, step)


def test_the_window_moves_on_by_a_step_with_each_recurrence(data: Path) -> None:
    sentences = read(data)
    first, second = window_of(sentences, 0), window_of(sentences, 1)

    assert (first.begin, second.begin) == (0, 100)
    assert set(first.train) | set(first.validation) == set(sentences[:600])
    assert set(second.train) | set(second.validation) == set(sentences[100:700])


def test_a_tenth_of_a_window_is_for_validation_and_not_trained_on() -> None:
    numbers = list(range(1000))
    window = window_of(numbers, 0)

    assert len(window.validation) == 60
    assert sorted((*window.train, *window.validation)) == numbers[:600]


def test_all_attempts_of_a_recurrence_have_the_same_window(data: Path) -> None:
    assert window_of(read(data), 5) == window_of(read(data), 5)


def test_after_the_last_window_comes_the_first_one_again() -> None:
    numbers = list(range(1000))

    assert [window_of(numbers, each).begin for each in (3, 4, 5, 6)] == [300, 400, 0, 100]


def test_a_window_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="600 sentences, there are 10"):
        window_of(range(10), 0)


def test_sentences_come_in_the_order_of_time_and_neutral_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        '"0","30","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","a","late, and ""sad"""\n'
        '"4","10","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","b","early caf\xe9"\n'
        '"2","20","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","c","neither"\n',
        encoding="latin-1",
    )

    assert [(each.text, each.sentiment) for each in read(path)] == [
        ("early caf\xe9", 1),
        ('late, and "sad"', 0),
    ]


def test_a_file_of_another_kind_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("text,label\n", encoding="latin-1")

    with pytest.raises(SystemExit, match="polarity,id,date"):
        read(path)
    with pytest.raises(SystemExit, match=r"make_slice\.py"):
        read(tmp_path / "missing.csv")


def test_words_change_their_sentiment_so_that_an_old_model_fails_on_new_sentences(
    data: Path,
) -> None:
    sentences = read(data)
    old, later = window_of(sentences, 0), window_of(sentences, 20)
    balance: Counter[str] = Counter()
    for sentence in old.train:
        balance.update(dict.fromkeys(sentence.text.split(), 1 if sentence.sentiment else -1))

    def right(window: Any) -> float:
        guesses = [
            (sum(balance[word] for word in each.text.split()) > 0) == bool(each.sentiment)
            for each in window.validation
        ]
        return sum(guesses) / len(guesses)

    assert right(old) > 0.75
    assert right(later) < 0.35
    assert right(window_of(sentences, 1)) > 0.7, "a step further little has changed"


def test_both_sentiments_are_about_equally_frequent(data: Path) -> None:
    sample = random.Random(0).sample(read(data), 1000)

    assert 0.4 < sum(each.sentiment for each in sample) / len(sample) < 0.6
