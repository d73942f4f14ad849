"""Which recurrences are control runs: a share of them, evenly spread.  Pure.

Not by coin flips: with a share of 5 % one job in three would have no control run
among its first twenty.  Control runs follow learned ones at a steady rate from an
offset that is the job's own, so that many jobs don't all measure at once.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

from zeus_operator.plan_spec import JobPlanSpec, Mode
from zeus_operator.records import JobFacts, RecurrenceKind

_STEPS = 2**32


def next_kind(facts: JobFacts, spec: JobPlanSpec) -> RecurrenceKind:
    """Return what the next recurrence of the job shall be.

    Never control is the first one, which takes the default anyway; nor two in a row: a
    control run of any origin after the last learned recurrence is the one due there.
    """
    if spec.mode is not Mode.OPTIMIZE:  # the default runs anyway
        return RecurrenceKind.LEARNED
    ordinal = facts.last_ordinal.get(RecurrenceKind.LEARNED, 0)
    if not control_follows(facts.job.seed, spec.control_fraction, ordinal):
        return RecurrenceKind.LEARNED
    last = next(
        (
            each
            for each in reversed(facts.recurrences)
            if each.kind is RecurrenceKind.LEARNED and each.ordinal == ordinal
        ),
        None,
    )
    # Of a former incarnation nothing is known here: rather none than one again and again.
    if last is None or any(
        each.kind is RecurrenceKind.CONTROL and each.id > last.id for each in facts.recurrences
    ):
        return RecurrenceKind.LEARNED
    return RecurrenceKind.CONTROL


def control_follows(seed: int, fraction: Fraction, ordinal: int) -> bool:
    """Return whether a control run follows the learned recurrence of that ordinal.

    Args:
        seed: of the job.
        fraction: of all recurrences, from 0 to 1/2.
        ordinal: from 1; 0: there is none yet.
    """
    if ordinal < 1 or fraction <= 0:
        return False
    rate = fraction / (1 - fraction)  # control runs for each learned one
    offset = _offset(seed)
    return math.floor(ordinal * rate + offset) > math.floor((ordinal - 1) * rate + offset)


def _offset(seed: int) -> Fraction:
    digest = hashlib.sha256(f"{seed}/control".encode()).digest()
    return Fraction(int.from_bytes(digest[:4], "big"), _STEPS)
