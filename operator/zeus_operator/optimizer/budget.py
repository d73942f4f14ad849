"""What exploring may still cost, so that a job is never much dearer than its default.  Pure.

Over n* = max(10, t + 1) recurrences, t of them done, the default at the power limit
found would cost n* D.  Allowed is (1 + share) n* D.  Of that is taken what is spent and
what the recurrences left would cost at the default with its best power limit, which
can always be had.  The rest is what exploring may still cost.

In expectation (`left`), spent is counted as it is now believed to be, arm by arm, not as
it came out: luck is left out, good and bad.  What no longer looks as cheap as it once did
is so charged in hindsight.  Arms other than the default count dearer by `caution` standard
deviations of their difference to it, until they have shown what they cost.

In every history (`left_for_sure`), what was really spent counts: on all but the default's
own runs, less what the default would have cost where another arm delivered the model.  That
is taken for as little as it may well be, and a run may use up what is left and not more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zeus_operator.optimizer.gaussian import safe_exp
from zeus_operator.optimizer.valuation import Arm

_PLANNED_RECURRENCES = 10
_SURELY_SDS = 2.0  # standard deviations that the default is taken to be cheaper than believed


@dataclass
class Account:
    """What a job has spent.

    Args:
        models: recurrences that ended with a model, by arm.
        wasted: cost of failed attempts and of profiling, in units.
        strayed: what was really spent on anything but the default's own runs, in units.
        earlier: recurrences that ended with a model before the job changed.
        debt: what those went over their share, in recurrences of the default.
    """

    models: dict[int, int] = field(default_factory=dict)
    wasted: float = 0.0
    strayed: float = 0.0
    earlier: int = 0
    debt: float = 0.0

    @property
    def recurrences(self) -> int:
        """Recurrences that ended with a model."""
        return sum(self.models.values())

    def model(self, arm: int) -> None:
        """A recurrence ended with a model from `arm`."""
        self.models[arm] = self.models.get(arm, 0) + 1

    def take_back(self, arm: int | None, strayed: float) -> None:
        """Count an attempt no more.

        Args:
            arm: what its recurrence ended with a model from; None: it did not.
            strayed: what it had spent on anything but a run of the default.
        """
        self.strayed -= strayed
        if arm is not None and self.models.get(arm, 0):
            self.models[arm] -= 1

    def went_over(self, default: int, cost: float) -> float:
        """Return what all but the default's own runs cost over the default, in units.

        Args:
            default: the default's index.
            cost: of a recurrence of it.
        """
        by_others = self.recurrences - self.models.get(default, 0)
        return self.strayed + (self.debt - by_others) * cost

    def after_a_change(self, default: int, cost: float, share: float) -> Account:
        """Return the account of the job as it is from now on.

        What was spent in advance of the recurrences that have been stays owed.
        """
        over = self.went_over(default, cost) / cost - share * self.recurrences
        return Account(earlier=self.earlier + self.recurrences, debt=max(over, 0.0))


@dataclass(frozen=True)
class Terms:
    """How much may be spent.

    Args:
        share: of the default's cost that exploring may add.
        caution: standard deviations that arms other than the default count dearer.
    """

    share: float
    caution: float


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
    spent = account.wasted
    for arm in arms:
        models = account.models.get(arm.arm, 0)
        if models and arm.proven:
            cost = pessimistic(arm, default, terms.caution)
            spent += models * cost * (arm.probability if arm.arm != default.arm else 1.0)
    staying = default.run_cost * (planned - done)
    return (1.0 + terms.share) * reference * planned - spent - staying


def surely(expected: float, log_sd: float, runs: int) -> float:
    """Return what a recurrence of the default costs at least, as far as that can be known.

    Args:
        expected: what it is expected to cost.
        log_sd: standard deviation of its logarithm.
        runs: that this was learned from: how much they vary shows only after some.
    """
    return expected * safe_exp(-_SURELY_SDS * (1.0 + 1.0 / max(runs, 1)) * log_sd)


def left_for_sure(
    account: Account, default: int, cost: float, full_power_ratio: float, share: float
) -> float:
    """Return what may still be spent in the worst case, in units.

    Args:
        account: what was spent.
        default: the default's index.
        cost: what a recurrence of it costs, surely.
        full_power_ratio: of the default.
        share: of the default's cost that may be added.
    """
    done = account.earlier + account.recurrences
    planned = max(_PLANNED_RECURRENCES, done + 1) - account.earlier
    return share * full_power_ratio * cost * planned - account.went_over(default, cost)
