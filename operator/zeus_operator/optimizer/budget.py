"""What exploring may still cost, so that a job is never much dearer than its default.  Pure.

Over n* = max(10, t + 1) recurrences, t of them done, the default at the power limit
found would cost n* D.  Allowed is (1 + share) n* D.  Of that is taken what is spent and
what the recurrences left would cost at the default with its best power limit, which
can always be had.  The rest is what exploring may still cost.

Spent is counted as it is now believed to be, arm by arm, not as it came out: luck is
left out, good and bad.  What no longer looks as cheap as it once did is so charged in
hindsight.  Arms other than the default count dearer by `caution` standard deviations of
their difference to it, until they have shown what they cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zeus_operator.optimizer.gaussian import safe_exp
from zeus_operator.optimizer.valuation import Arm

_PLANNED_RECURRENCES = 10


@dataclass
class Account:
    """What a job has spent.

    Args:
        models: recurrences that ended with a model, by arm.
        wasted: cost of failed attempts and of profiling, in units.
        realized_extra: what the recurrences really cost more than the default is expected
            to, in units; the default's own runs count as expected.
    """

    models: dict[int, int] = field(default_factory=dict)
    wasted: float = 0.0
    realized_extra: float = 0.0

    @property
    def recurrences(self) -> int:
        """Recurrences that ended with a model."""
        return sum(self.models.values())

    def model(self, arm: int) -> None:
        """A recurrence ended with a model from `arm`."""
        self.models[arm] = self.models.get(arm, 0) + 1


@dataclass(frozen=True)
class Terms:
    """How much may be spent.

    Args:
        share: of the default's cost that exploring may add.
        caution: standard deviations that arms other than the default count dearer.
        every_history: the bound holds for what really was spent, not in expectation.
    """

    share: float
    caution: float
    every_history: bool = False


def default_cost(default: Arm, full_power_ratio: float) -> float:
    """Return what a recurrence of the default costs at the power limit found, in units."""
    return full_power_ratio * default.run_cost


def pessimistic(arm: Arm, default: Arm, caution: float) -> float:
    """Return what a model from `arm` costs, in units, with `caution` against the default."""
    if arm.arm == default.arm:
        return arm.run_cost
    return arm.value * safe_exp(caution * arm.difference_sd)


def left(
    account: Account, arms: Sequence[Arm], default: Arm, full_power_ratio: float, terms: Terms
) -> float:
    """Return what exploring may still cost, in units; negative: more was spent than allowed.

    Args:
        arms: all that were ever run, offered still or not.
        default: the default's arm.
        full_power_ratio: of the default.
    """
    done = account.recurrences
    planned = max(_PLANNED_RECURRENCES, done + 1)
    reference = default_cost(default, full_power_ratio)
    if terms.every_history:
        return terms.share * reference * planned - account.realized_extra
    spent = account.wasted
    for arm in arms:
        models = account.models.get(arm.arm, 0)
        if models and arm.proven:
            cost = pessimistic(arm, default, terms.caution)
            spent += models * cost * (arm.probability if arm.arm != default.arm else 1.0)
    staying = default.run_cost * (planned - done)
    return (1.0 + terms.share) * reference * planned - spent - staying
