"""Comparisons with what changes by itself: each whole one is made anew until it is right."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.eventually import eventually


def becomes(ask: Callable[[], object], expected: object, what: str) -> None:
    """Wait until `ask` returns what is expected; fails with what it returned last.

    One scrape that fails takes all series of its target away until the next one, so that nothing
    that was found once can be asked for again.
    """
    last: list[object] = [None]

    def is_as_expected() -> bool:
        last[0] = ask()
        return last[0] == expected

    try:
        eventually(is_as_expected, what)
    except AssertionError as error:
        raise AssertionError(f"{error}: it is {last[0]!r} and not {expected!r}") from None
