"""What one finished model takes, and how well that is known.  Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zeus_operator.report.statistics import student_t_quantile

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Joules or seconds of one finished model.

    Args:
        mean: the plain mean, failed runs paid for.
        runs: how many it is the mean of.
        log_centre, log_error: ln of the expectation, and its standard error.
        freedom: Student's degrees of freedom of that error; 0: it is known exactly.
    """

    mean: float
    runs: int
    log_centre: float
    log_error: float = 0.0
    freedom: float = 0.0

    @classmethod
    def exactly(cls, mean: float, runs: int) -> Estimate:
        """Return an amount that was spent, so that there is nothing to estimate."""
        return cls(mean, runs, math.log(mean))

    @property
    def is_exact(self) -> bool:
        """Whether it is known, not estimated."""
        return self.freedom <= 0.0

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return where the expectation lies; it holds the plain mean."""
        spread = self._spread(confidence)
        low, high = math.exp(self.log_centre - spread), math.exp(self.log_centre + spread)
        return min(low, self.mean), max(high, self.mean)

    def _spread(self, confidence: float) -> float:
        if self.is_exact:
            return 0.0
        return student_t_quantile(0.5 + 0.5 * confidence, self.freedom) * self.log_error


def ratio_interval(
    ours: Estimate, theirs: Estimate, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return where (expectation of ours) / (expectation of theirs) lies.

    On the logarithm, with the degrees of freedom of Welch and Satterthwaite; it
    holds the ratio of the plain means.
    """
    a, b = ours.log_error**2, theirs.log_error**2
    plain = ours.mean / theirs.mean
    if ours.is_exact:
        low, high = theirs.interval(confidence)
        return ours.mean / high, ours.mean / low
    centre = math.exp(ours.log_centre - theirs.log_centre)
    spread = 0.0
    if a + b > 0.0:
        parts = [(v, e.freedom) for v, e in ((a, ours), (b, theirs)) if not e.is_exact]
        freedom = (a + b) ** 2 / sum(v * v / f for v, f in parts)
        spread = student_t_quantile(0.5 + 0.5 * confidence, freedom) * math.sqrt(a + b)
    return min(plain, centre * math.exp(-spread)), max(plain, centre * math.exp(spread))
