"""Trains a tiny transformer to tell good reviews from bad ones, with Hugging Face's `Trainer`.

Runs as it is on any machine, with or without a GPU and agent, and downloads nothing:

    python train.py --max-epochs 20

Run by `zeusctl run zeusjob.yaml` it learns the batch size from run to run.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

import zeus_runtime
from zeus_runtime.huggingface import ZeusCallback, training_arguments

GOOD = ["great", "lovely", "superb", "gripping", "brilliant", "warm", "funny", "clever"]
BAD = ["awful", "dull", "boring", "clumsy", "weak", "stale", "tiresome", "bland"]
OTHER = ["the", "a", "film", "plot", "cast", "music", "scene", "story", "ending", "and", "was"]
WORDS = ["[PAD]", "[CLS]", *GOOD, *BAD, *OTHER]
NUMBER = {word: number for number, word in enumerate(WORDS)}
LENGTH = 16  # words of a review
TRAINING_REVIEWS, VALIDATION_REVIEWS = 1024, 256
DATA_SEED = 0  # the reviews are the same in every run


class Reviews(Dataset[dict[str, torch.Tensor]]):
    """Generated reviews; the label is 1 where more of the words are good than bad."""

    def __init__(self, count: int, seed: int) -> None:
        chance = random.Random(seed)
        self._reviews = [_review(chance) for _ in range(count)]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._reviews)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one review as the Trainer wants it."""
        words, label = self._reviews[index]
        numbers = torch.tensor([NUMBER["[CLS]"], *(NUMBER[word] for word in words)])
        return {"input_ids": numbers, "labels": torch.tensor(label)}


def _review(chance: random.Random) -> tuple[list[str], int]:
    good, bad = chance.sample(range(5), 2)
    words = chance.choices(GOOD, k=good) + chance.choices(BAD, k=bad)
    words += chance.choices(OTHER, k=LENGTH - len(words))
    chance.shuffle(words)
    return words, int(good > bad)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--output", default="", help="folder that takes the model")
    return parser.parse_args()


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of reviews that the model understands."""
    right = prediction.predictions.argmax(-1) == prediction.label_ids
    return {"accuracy": float(right.mean())}


def main() -> None:
    """Train until the validation accuracy is good enough."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    torch.set_num_threads(1)  # a network this small gains nothing from more
    seed = zeus_runtime.seed(0)
    set_seed(seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=LENGTH + 1,
        )
    )
    with tempfile.TemporaryDirectory() as scratch:  # for a Trainer that keeps no checkpoints
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                num_train_epochs=arguments.max_epochs,
                learning_rate=zeus_runtime.learning_rate(0.002),
                per_device_eval_batch_size=VALIDATION_REVIEWS,
                eval_strategy="epoch",
                save_strategy="no",
                seed=seed,
                report_to="none",
                disable_tqdm=True,
                # On a GPU that holds 64 reviews at once, larger batches are accumulated.
                **training_arguments(32, largest_micro_batch=64),
            ),
            train_dataset=Reviews(TRAINING_REVIEWS, DATA_SEED),
            eval_dataset=Reviews(VALIDATION_REVIEWS, DATA_SEED + 1),
            compute_metrics=accuracy,
            callbacks=[ZeusCallback("eval_accuracy")],
        )
        trainer.train()
        if arguments.output:
            trainer.save_model(arguments.output)  # only reached with a model that is good enough


if __name__ == "__main__":
    main()
