"""A script that leaves an epoch before its loader's end, and what of that tells how long one is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runtime_lab import decided
from tests.support.scripted_team import as_own_process
from zeus_runtime.gpu import Gpu, GpuUnavailable
from zeus_runtime.protocol import Outcome, Result, decode_result
from zeus_runtime.run import TrainingRun

STEPS = 10  # that the script does of an epoch
STEP_SECONDS = 3.0


class Script:
    """Trains on a clock of its own, with batches for ten times as many steps."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "result"
        self.now = 0.0
        environ = {"ZEUS_RESULT_PATH": str(self._path), "ZEUS_DECISION": decided().to_json()}
        self.run = TrainingRun(
            max_epochs=50,
            batch_size=16,
            steps_per_epoch=10 * STEPS,
            environ=environ,
            open_device=self._no_gpu,
            clock=lambda: self.now,
        )

    def steps(self, count: int = STEPS) -> None:
        for _ in range(count):
            self.run.begin_step(16.0)
            self.now += STEP_SECONDS
            self.run.end_step()

    @property
    def result(self) -> Result:
        result = decode_result(self._path.read_bytes())
        assert result is not None
        return result

    @staticmethod
    def _no_gpu(*_: Any) -> Gpu:
        raise GpuUnavailable("none here")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    with as_own_process(monkeypatch):
        yield Script(tmp_path)


@pytest.mark.parametrize("metric", [0.95, 0.1])
def test_an_epoch_that_the_script_bounds_is_whole_also_where_its_metric_ends_the_run(
    script: Script, metric: float
) -> None:
    assert script.run.next_epoch()
    script.steps()
    script.run.report_metric(metric)  # after a `break`: the epoch is not said to have ended
    assert script.run.next_epoch() is (metric < 0.9)
    script.run.end_epoch(cut=True)
    script.run.finish()
    assert script.run.steps_per_epoch == STEPS
    assert script.result.epoch_time_seconds == pytest.approx(STEPS * STEP_SECONDS)


def test_an_epoch_in_whose_middle_the_script_ends_its_training_and_leaves_counts(
    script: Script,
) -> None:
    assert script.run.next_epoch()
    script.steps()
    script.run.report_metric(0.1)
    script.run.end_here()
    script.run.finish()
    assert (script.result.outcome, script.result.epochs) == (Outcome.MAX_EPOCHS.value, 1)
    assert script.result.milestones == ((1, 0.1),)
    assert script.run.steps_per_epoch == 10 * STEPS, "need not have been whole"


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("error", "outcome", "epochs"),
    [
        pytest.param(KeyError("oops"), None, 0, id="crash"),
        pytest.param(KeyboardInterrupt(), None, 0, id="interrupt"),
        pytest.param(SystemExit(0), Outcome.MAX_EPOCHS.value, 1, id="exit"),
    ],
)
def test_a_script_that_fails_after_it_has_ended_its_training_has_crashed(
    script: Script, error: BaseException, outcome: str | None, epochs: int, inside: bool
) -> None:
    def train() -> None:
        with script.run:
            assert script.run.next_epoch()
            script.steps()
            if not inside:
                script.run.end_epoch()
            script.run.report_metric(0.1)
            script.run.end_here()
            raise error

    with pytest.raises(type(error)):
        train()
    assert script.result.outcome == outcome
    assert script.result.epochs == (epochs if inside else 1)
