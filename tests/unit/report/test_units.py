"""Quantities as people read them."""

from __future__ import annotations

import sys

import pytest

from zeus_operator.report import units


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0 J"),
        (5.5, "5.50 J"),
        (842.4, "842 J"),
        (999.6, "1.00 kJ"),
        (12345.0, "12.3 kJ"),
        (999_600.0, "1.00 MJ"),
        (4.56e6, "4.56 MJ"),
        (7.89e9, "7.89 GJ"),
        (-1500.0, "-1.50 kJ"),
    ],
)
def test_energies_have_three_digits_and_a_fitting_unit(value: float | None, shown: str) -> None:
    assert units.joules(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0123, "0.0123 s"),
        (9.996, "10.0 s"),
        (99.94, "99.9 s"),
        (99.96, "1 min 40 s"),
        (3599.7, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
        (float("nan"), "nan s"),  # a script's result may hold anything
        (float("inf"), "inf s"),
    ],
)
def test_durations_are_carried_over_without_sixty_seconds(value: float | None, shown: str) -> None:
    assert units.seconds(value) == shown


def test_a_saving_that_rounds_to_nothing_has_no_sign() -> None:
    assert units.percent(-0.0001) == "0.0 %"
    assert units.percent(-0.018) == "-1.8 %"
    assert units.interval(-0.0001, 0.25) == "0.0 to 25.0 %"


@pytest.mark.parametrize("value", [sys.float_info.max, -sys.float_info.max, float("inf")])
def test_no_quantity_is_too_large_to_be_told(value: float) -> None:
    """A pod may report anything that is finite, and the sum of it must still be shown."""
    assert len(units.significant(value)) < 20
    assert units.joules(value)
    assert units.seconds(value)
