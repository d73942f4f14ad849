"""One lease of one GPU's power limit, as the machine keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from zeus_agent.limits import LeaseView, Refused, SavedLimit
from zeus_runtime.protocol import ErrorCode


@dataclass
class Lease:
    """What a session asked for, and what became of it.

    Args:
        wish: number of its newest wish.
        done: number of the newest wish that was answered.
        granted_milliwatts: its newest wish that was done; None: none was.
        target_milliwatts: what was last written for it, before a driver's rounding.
    """

    session: str
    namespace: str
    dry_run: bool
    fence: int
    requested_milliwatts: int
    sequence: int
    wish: int
    done: int = 0
    granted_milliwatts: int | None = None
    target_milliwatts: int | None = None
    applied_milliwatts: int | None = None
    clamped: bool = False
    foreign: bool = False

    @property
    def is_due(self) -> bool:
        """Whether a wish waits to be done."""
        return not self.foreign and self.wish != self.done

    def check(self, gpu_uuid: str, session: str, sequence: int) -> None:
        """Check that a wish could be taken.

        Raises:
            Refused: see `LeaseMachine.check`.
        """
        if self.session != session:
            raise Refused(
                ErrorCode.GPU_LEASED,
                f"session {self.session!r} holds the power limit of {gpu_uuid}; wait until it ends",
                holder=self.session,
            )
        if sequence < self.sequence:
            raise Refused(
                ErrorCode.STALE_SEQUENCE,
                f"sequence {sequence} is older than {self.sequence}, which was already seen",
                newest=self.sequence,
            )
        if self.foreign:
            raise Refused(
                ErrorCode.FOREIGN_CHANGE,
                f"someone else has changed the power limit of {gpu_uuid}; the agent leaves "
                "it alone until this lease is released",
            )

    def refused(self, ticket: int) -> None:
        """Note that a wish was refused: what the lease is to have is what it was last granted."""
        self.done = max(self.done, ticket)
        if self.granted_milliwatts is not None and not self.is_due:
            self.requested_milliwatts = self.granted_milliwatts

    def view(self, gpu_uuid: str, saved: SavedLimit | None) -> LeaseView | None:
        """Return the lease for answers; None: it holds no limit yet."""
        if self.applied_milliwatts is None or (saved is None and not self.dry_run):
            return None
        previous = self.applied_milliwatts  # of a dry run: what is there is what was found
        if saved is not None and not self.dry_run:
            previous = saved.previous_milliwatts
        return LeaseView(
            session=self.session,
            gpu_uuid=gpu_uuid,
            fence=self.fence,
            requested_milliwatts=self.requested_milliwatts,
            applied_milliwatts=self.applied_milliwatts,
            previous_milliwatts=previous,
            clamped=self.clamped,
            foreign=self.foreign,
            namespace=self.namespace,
            dry_run=self.dry_run,
        )
