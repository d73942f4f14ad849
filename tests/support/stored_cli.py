"""The program on a stored history: how to call it, and a history to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.histories import Try, recurrence, store_history
from zeus_operator.cli.main import main
from zeus_operator.records import RecurrenceKind
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

Zeusctl = Callable[..., Result]


@pytest.fixture
def zeusctl(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zeusctl]:
    """Runs the program on the test's database."""
    monkeypatch.chdir(tmp_path)
    environment = {"ZEUS_HOME": str(tmp_path / "home"), "DATABASE_URL": database}

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(main, list(arguments), env=environment, **options)

    return invoke


def output(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def with_history(store: Store) -> None:
    learned = [
        recurrence(1, [Try(256)]),
        recurrence(2, [Try(512, Outcome.COST_EXCEEDED, 4, 900.0, 6.0), Try(256)]),
        recurrence(3, [Try(128, energy_joules=650.0, time_seconds=5.0)]),
    ]
    control = [
        recurrence(n, [Try(256, energy_joules=1100.0 + n)], RecurrenceKind.CONTROL)
        for n in (1, 2, 3)
    ]
    store_history(store, [*learned, *control])
