"""Has the job changed?  A two-sided CUSUM over standardised surprises (Page 1954)."""

from __future__ import annotations

_CLIP = 4.0
_SLACK = 1.0


class Cusum:
    """Sums of surprises above and below what was expected, in standard deviations.

    Args:
        alarm: sum at which the job is taken to have changed.

    Attributes:
        onset: how many surprises, the last one included, the alarmed sum stands
            for: the change lies there.
    """

    def __init__(self, alarm: float) -> None:
        self._alarm = alarm
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self._sums = [0.0, 0.0]
        self._lengths = [0, 0]
        self.onset = 0

    def surprise(self, z: float) -> bool:
        """Add a surprise; return whether the sum passed the alarm."""
        z = max(-_CLIP, min(z, _CLIP))
        for side, value in enumerate((z, -z)):
            total = max(0.0, self._sums[side] + value - _SLACK)
            self._sums[side] = total
            self._lengths[side] = self._lengths[side] + 1 if total > 0.0 else 0
            if total >= self._alarm:
                self.onset = self._lengths[side]
                return True
        return False

    @property
    def memory(self) -> int:
        """How many of the last surprises an alarm could still point back to."""
        return max(self._lengths)
