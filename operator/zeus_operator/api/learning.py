"""Parts of a ZeusJob that say how its batch size is learned: policy, attempts, what it may cost."""

from __future__ import annotations

import enum

from pydantic import Field, StrictInt

from zeus_operator.api.base import ApiModel
from zeus_operator.api.fields import Percent, UpToAHalf


class PolicyName(enum.StrEnum):
    """Which bandit chooses the batch size."""

    STRUCTURED = "structured"
    ZEUS = "zeus"


class Bound(enum.StrEnum):
    """What the bound on the cost of exploring holds for."""

    EXPECTED = "Expected"
    EVERY_HISTORY = "EveryHistory"


class Retry(ApiModel):
    """How often a recurrence is tried, and when to stop trying."""

    max_attempts: StrictInt = Field(
        default=5,
        ge=1,
        le=20,
        description=(
            "Most attempts of one recurrence. The last one takes the default batch size and is "
            "not stopped for its cost."
        ),
    )
    pause_after_failures: StrictInt = Field(
        default=3,
        ge=1,
        le=100,
        description="After so many failed recurrences in a row no new one starts.",
    )


class Exploration(ApiModel):
    """What trying other batch sizes may cost. The policy `zeus` knows no bound."""

    max_extra_cost_percent: Percent = Field(
        default="5",
        description=(
            "What trying other batch sizes may cost over always running the default at the power "
            'limit found, in percent of that, a quoted decimal from "0" to "100"; counted over the '
            "first ten recurrences together, and from then on over all there were. What the power "
            'limit and better batch sizes save may be spent as well. "0": only that may, and no '
            "other batch size is measured in passing."
        ),
    )
    bound: Bound = Field(
        default=Bound.EXPECTED,
        description=(
            "Expected: the percentage holds on average, over the luck of the runs; a single "
            "history may cost more. EveryHistory: it holds for what is really spent in each single "
            "history, as far as the cost of the default is known. That saves less, because a try "
            "must be paid for even if it goes wrong: batch sizes are tried later, and some never; "
            'with "0" the default always runs.'
        ),
    )


class Savings(ApiModel):
    """How what the job saves is measured."""

    control_fraction: UpToAHalf = Field(
        default="0",
        description=(
            'Share of the recurrences that are control runs, a quoted decimal from "0" to "0.5": '
            "they take the default batch size at the power limit found, so that what is saved "
            "against it is known better. A control run delivers a model and saves nothing, so a "
            'share of "0.05" gives up 5 % of the savings. They are spread evenly over the '
            "recurrences, on the schedule or back to back, and the first is never one. In the "
            "modes Observe and Recommend the default runs anyway, and it changes nothing."
        ),
    )
