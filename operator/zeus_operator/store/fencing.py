"""Only the leader writes: its epoch is checked in each of its transactions.

A Lease says who leads, but not what a process that stood still for a while does when it goes on.
So whoever has won the Lease takes a number here, and each write transaction begins with a look at
whether that is still the newest one.  The look holds a shared lock until the end of the
transaction: a successor's number waits for it, and the time-outs set here bound how long.

Nothing of it is state of a session, so PgBouncer in transaction mode serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from zeus_operator.store.connection import StoreError
from zeus_operator.store.models import leadership

_ROW = 1
_CHECK = text(
    "SELECT set_config('statement_timeout', :statement, true), "
    "set_config('idle_in_transaction_session_timeout', :idle, true) "
    "FROM leadership WHERE epoch = :epoch FOR SHARE"
)


class FencedOut(StoreError):  # noqa: N818 - a state, as ConnectionRefused is
    """Another process leads: this one must end without another write."""


@dataclass(frozen=True)
class Fence:
    """One leader's number, and how long its transactions may take.

    Args:
        epoch: grows with every leader.
        statement_timeout_seconds, idle_timeout_seconds: shorter than the Lease, so that no
            transaction of a leader that stood still delays its successor for longer.
    """

    epoch: int
    statement_timeout_seconds: float
    idle_timeout_seconds: float

    def check(self, connection: Connection) -> None:
        """Begin a write transaction of this leader.

        Raises:
            FencedOut: another one has a newer number.
        """
        found = connection.execute(
            _CHECK,
            {
                "statement": f"{round(self.statement_timeout_seconds * 1000)}ms",
                "idle": f"{round(self.idle_timeout_seconds * 1000)}ms",
                "epoch": self.epoch,
            },
        ).one_or_none()
        if found is None:
            raise FencedOut(f"another replica leads: epoch {self.epoch} is over")


def next_epoch(connection: Connection, holder: str, now: datetime) -> int:
    """Take the next number; waits for write transactions of the leader before to end."""
    taken = insert(leadership).values(id=_ROW, epoch=1, holder=holder, acquired_at=now)
    epoch: int = connection.execute(
        taken.on_conflict_do_update(
            index_elements=["id"],
            set_={"epoch": leadership.c.epoch + 1, "holder": holder, "acquired_at": now},
        ).returning(leadership.c.epoch)
    ).scalar_one()
    return epoch
