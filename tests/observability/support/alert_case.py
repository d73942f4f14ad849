"""What an alert's case is: series and their values, as promtool takes them.

Values are one a minute: `1x20` is 1 for 20 minutes more, `0+2x20` grows by 2 each minute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Series = Mapping[str, str]

_LOOKED_AT_MINUTES = (2, 5, 10, 20)
"""When one that should be silent is looked at, and once more well after it would have fired."""


@dataclass(frozen=True)
class Case:
    """One alert.

    Attributes:
        fires: series that make it fire, once for each of `firing`.
        after: minutes after which it does; one minute before it does not.
        silent: series under which it never fires, each case with its words.
    """

    alert: str
    fires: Series
    after: int
    silent: Mapping[str, Series]
    firing: int = 1


def promtool_tests(cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Yield the test groups of a promtool file."""
    for case in cases:
        yield _group(
            f"{case.alert} fires",
            case.fires,
            {case.after - 1: (case.alert, 0), case.after: (case.alert, case.firing)},
        )
        for words, series in case.silent.items():
            looked_at = (*_LOOKED_AT_MINUTES, case.after + 45)
            never = dict.fromkeys(looked_at, (case.alert, 0))
            yield _group(f"{case.alert} is silent: {words}", series, never)


def _group(name: str, series: Series, expected: Mapping[int, tuple[str, int]]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
            for minutes, (alert, count) in expected.items()
        ],
    }
