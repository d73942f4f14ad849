"""Trains BERT to tell the sentiment of the newest sentences, on one GPU, until it is good enough.

    python train.py --data ~/sentiment140.csv --model bert-base-uncased --batch-size 128

The data drifts: each recurrence trains on a window of it, a little further than the one before.
Run by `zeusctl run zeusjob.yaml` it learns the batch size from run to run.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import torch
from bert import Collate, small, trained
from sentences import read_sentences, window_of
from torch import nn

import zeus_runtime
from zeus_runtime import StopTraining, ZeusDataLoader


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CSV file as of Sentiment140")
    parser.add_argument("--model", help="name or folder of a trained one; none: a new, small BERT")
    parser.add_argument("--hidden", type=int, default=128, help="of the small one: vector size")
    parser.add_argument("--layers", type=int, default=2, help="of the small one")
    parser.add_argument("--words", type=int, default=20_000, help="that the small one knows")
    parser.add_argument("--longest", type=int, default=64, help="tokens of a sentence")
    parser.add_argument(
        "--recurrence", type=int, default=int(os.environ.get("ZEUS_RECURRENCE", "0"))
    )
    parser.add_argument("--window", type=int, default=500_000, help="sentences")
    parser.add_argument("--step", type=int, default=29_000, help="sentences to the next window")
    parser.add_argument("--batch-size", type=int, default=zeus_runtime.batch_size(128))
    parser.add_argument("--learning-rate", type=float, default=zeus_runtime.learning_rate(2e-5))
    parser.add_argument("--max-epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=zeus_runtime.seed(0))
    parser.add_argument("--workers", type=int, default=2, help="processes that make batches")
    parser.add_argument(
        "--checkpoints", type=Path, help="folder that outlives the pod; an interrupted run goes on"
    )
    parser.add_argument("--save", type=Path, help="folder for the model that is good enough")
    return parser.parse_args()


def train(
    model: nn.Module,
    loader: ZeusDataLoader[Any],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> None:
    """Do one epoch, in half precision where there is a GPU."""
    model.train()
    for tokens, sentiments in loader:
        inputs = {name: each.to(device, non_blocking=True) for name, each in tokens.items()}
        with torch.autocast(device.type, torch.float16, enabled=scaler.is_enabled()):
            loss = model(**inputs, labels=sentiments.to(device, non_blocking=True)).loss
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


@torch.no_grad()
def accuracy(model: nn.Module, loader: ZeusDataLoader[Any], device: torch.device) -> float:
    """Return the share of sentences whose sentiment the model finds."""
    model.eval()
    right = torch.zeros((), device=device)
    total = 0
    for tokens, sentiments in loader:
        inputs = {name: each.to(device, non_blocking=True) for name, each in tokens.items()}
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            found = model(**inputs).logits.argmax(dim=1)
        right += (found == sentiments.to(device, non_blocking=True)).sum()
        total += len(sentiments)
    return float(right) / total


class Checkpoint:
    """What an interrupted run goes on from: a file for each attempt, with the run's own state.

    Args:
        folder: None: nothing is kept.
        parts: what has a `state_dict`.
    """

    def __init__(self, folder: Path | None, loader: ZeusDataLoader[Any], **parts: Any) -> None:
        recurrence, attempt = (os.environ.get(f"ZEUS_{n}", "0") for n in ("RECURRENCE", "ATTEMPT"))
        self._path = None if folder is None else folder / f"{recurrence}-{attempt}.pt"
        self._loader = loader
        self._parts = parts

    def load(self, device: torch.device) -> None:
        """Go on, if this attempt was interrupted."""
        if self._path is None or not self._path.exists():
            return
        saved = torch.load(self._path, map_location=device, weights_only=True)
        if self._loader.load_state_dict(saved["zeus"]):
            for name, part in self._parts.items():
                part.load_state_dict(saved[name])

    def save(self) -> None:
        """Keep what was trained; the file is whole at any moment."""
        if self._path is None:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        torch.save({**state, "zeus": self._loader.state_dict()}, new)
        new.replace(self._path)

    def remove(self) -> None:
        """The run is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def main() -> None:
    """Train until the accuracy on the window's validation sentences is good enough."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)

    # All attempts of a recurrence have its number, and so the same window.
    window = window_of(
        read_sentences(arguments.data), arguments.recurrence, arguments.window, arguments.step
    )
    print(
        f"window {window.number + 1} of {window.of}: sentences {window.begin} to "
        f"{window.begin + arguments.window - 1}",
        flush=True,
    )
    if arguments.model:
        model, tokenizer = trained(arguments.model)
    else:
        texts = (sentence.text for sentence in window.train)
        model, tokenizer = small(
            texts, hidden=arguments.hidden, layers=arguments.layers, words=arguments.words
        )
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), arguments.learning_rate, weight_decay=0.01)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    loading = {
        "collate_fn": Collate(tokenizer, arguments.longest),
        "num_workers": arguments.workers,
        "persistent_workers": arguments.workers > 0,
        "pin_memory": device.type == "cuda",
    }
    train_loader = ZeusDataLoader(
        window.train,
        batch_size=arguments.batch_size,
        max_epochs=arguments.max_epochs,
        shuffle=True,
        **loading,
    )
    validation_loader = ZeusDataLoader(window.validation, batch_size=256, **loading)

    checkpoint = Checkpoint(
        arguments.checkpoints, train_loader, model=model, optimizer=optimizer, scaler=scaler
    )
    checkpoint.load(device)
    try:
        for epoch in train_loader.epochs():
            train(model, train_loader, optimizer, scaler, device)
            metric = accuracy(model, validation_loader, device)
            print(f"epoch {epoch + 1}: validation accuracy {metric:.4f}", flush=True)
            train_loader.report_metric(metric)
            checkpoint.save()
    except StopTraining:
        checkpoint.remove()
        raise
    if arguments.save is not None:
        model.save_pretrained(arguments.save)
        tokenizer.save_pretrained(arguments.save)
    checkpoint.remove()


if __name__ == "__main__":
    main()
