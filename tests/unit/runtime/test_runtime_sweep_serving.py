"""However a script takes its batches, the loader's part of a sweep leaves its training alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.virtual_sweep import SweepingRun

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
OWN, SAMPLES = 64, 64_000


class Serving:
    """A run in virtual time whose sweep is due, and the loader that is to serve it."""

    def __init__(self, *, simulated: bool = True, collate: Any = None) -> None:
        from torch.utils.data import DataLoader

        self.virtual = SweepingRun((16, 128), own=OWN, samples=SAMPLES)
        self.virtual.train(1)
        now = self.virtual.accounting.begin_epoch(self.virtual.steps)
        self.sweep = self.virtual.sweep
        self.sweep.on_epoch_begin(now, 1, self.virtual.steps_per_epoch)
        assert self.sweep.due
        self.loader = DataLoader(range(SAMPLES), batch_size=OWN, collate_fn=collate)  # type: ignore[arg-type]  # a data set is what has a length and items
        self.run: Any = SimpleNamespace(
            gpu=SimpleNamespace(simulated=simulated),
            decision=None,
            begin_work=lambda samples: None,
            finish_work=lambda: None,
        )

    def batches(self) -> Iterator[Any]:
        from zeus_runtime.sweep_loader import serve_sweep

        return serve_sweep(self.loader, self.run, self.sweep)

    def take(self, batches: Iterator[Any]) -> list[int]:
        """Train on what is served and return the sizes."""
        sizes = []
        for batch in batches:
            self.virtual.step(len(batch))
            torch.rand(3)  # as dropout does
            sizes.append(len(batch))
        return sizes


def test_the_second_of_two_iterators_serves_no_sweep_and_breaks_none() -> None:
    serving = Serving()
    first, second = serving.batches(), serving.batches()
    assert len(next(first)) == OWN
    assert list(second) == []
    assert set(serving.take(first)) == {OWN, 16, 128}
    assert serving.sweep.over


def test_an_iterator_that_is_kept_while_training_goes_on_serves_no_more() -> None:
    serving = Serving()
    kept = serving.batches()
    next(kept)
    serving.sweep.leave()  # as a new iterator or the end of the epoch does
    assert (serving.sweep.serving, serving.virtual.free_at) == (None, serving.virtual.now)
    torch.manual_seed(5)
    drawn = torch.rand(3).tolist()
    assert serving.take(kept) == []
    assert torch.rand(3).tolist() != drawn  # what was drawn in between is not drawn again


def test_an_interrupt_while_a_batch_is_made_passes_and_leaves_the_sweep() -> None:
    def interrupted(samples: list[int]) -> list[int]:
        if len(samples) == 16:
            raise KeyboardInterrupt
        return samples

    serving = Serving(collate=interrupted)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        serving.take(serving.batches())
    assert torch.equal(torch.get_rng_state(), before)
    assert (serving.sweep.serving, serving.sweep.over) == (16, False)
    serving.sweep.leave()
    assert serving.sweep.over


@pytest.mark.parametrize("tells", [True, False], ids=["no GPU", "an allocator that tells nothing"])
def test_where_torch_does_not_train_on_a_gpu_nothing_is_served_and_the_note_says_so(
    tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any) -> int:
        raise RuntimeError("does not yet support getDeviceStats")

    monkeypatch.setattr("torch.cuda.is_available", lambda: not tells)
    monkeypatch.setattr("torch.cuda.memory_allocated", raises)
    serving = Serving(simulated=False)
    assert list(serving.batches()) == []
    assert serving.virtual.free_at == serving.virtual.now
    assert "no other batch size was measured: torch has nothing" in serving.virtual.notices.note()


def test_a_note_holds_the_last_line_of_what_a_worker_raised() -> None:
    def fails(samples: list[int]) -> list[int]:
        if len(samples) == 16:
            raise RuntimeError("Caught ValueError in worker.\n" + "frame\n" * 999 + "no such file")
        return samples

    serving = Serving(collate=fails)
    assert set(serving.take(serving.batches())) == {OWN}
    note = serving.virtual.notices.note()
    assert "(RuntimeError: no such file)" in note
    assert len(note) < 300
