"""Leases that have outlived their pod's ownership of the board.  Pure."""

from __future__ import annotations

from collections.abc import Iterable

Held = tuple[str, str]
"""The id of a session, and the UUID of a board whose limit it holds."""


class Disowned:
    """Tells which leases must end, from one list of the kubelet's after another.

    A list may be wrong for a moment, while the kubelet learns of pods that come and go; one that
    says the same again is believed.
    """

    def __init__(self) -> None:
        self._missed_in: dict[Held, int] = {}

    def over(self, missing: Iterable[Held], list_number: int) -> list[Held]:
        """Return the leases whose board two lists in succession did not give to their pod.

        Args:
            missing: all leases whose pod has nothing of the board, in the newest list.
            list_number: of that list; lists are counted.
        """
        self._missed_in = {held: self._missed_in.get(held, list_number) for held in missing}
        return [held for held, first in self._missed_in.items() if first < list_number]
