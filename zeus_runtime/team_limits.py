"""One power limit for all GPUs of a team, asked of the agents of all machines."""

from __future__ import annotations

from typing import FrozenSet, List, Mapping, Optional, Sequence, Tuple

from zeus_runtime.agent_background import AgentStatus, BackgroundAgent
from zeus_runtime.agent_client import AgentError
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.power_profile import SAME_WATTS
from zeus_runtime.protocol import Lease, Result
from zeus_runtime.team_messages import Facts, HeldLimit, Hello, Problem


def own_limit_watts(lead: GpuFacts, own: GpuFacts, watts: float) -> float:
    """Return the limit of a GPU where that of rank 0 has `watts`.

    The same where both are of one model, else at the same place between its bounds.
    """
    low, high = lead.min_limit_watts, lead.max_limit_watts
    own_low, own_high = own.min_limit_watts, own.max_limit_watts
    if own_low is None or own_high is None or low is None or high is None:
        return watts
    if own.model == lead.model or high <= low:
        return min(max(watts, own_low), own_high)
    return own_low + (watts - low) / (high - low) * (own_high - own_low)


class TeamAgent:
    """Looks like `BackgroundAgent`; what it holds is what all hold.

    Args:
        own: the agent of this process, which is that of rank 0.
    """

    def __init__(self, own: BackgroundAgent) -> None:
        self._own = own
        self._hellos: Sequence[Hello] = ()
        self._counting: FrozenSet[int] = frozenset()
        self._watts: Optional[float] = None
        self._status = AgentStatus()

    @property
    def status(self) -> AgentStatus:
        """What was known of all when they last met."""
        return self._status

    def want_power_limit(self, uuid: str, watts: float) -> None:
        """Ask all for the limit, each for its own GPU, at the end of the meeting."""
        del uuid
        self._watts = watts

    def release(self, uuid: str) -> None:
        """Ask all for their former limits, at the end of the meeting."""
        del uuid
        self._watts = None

    def report(self, result: Result) -> None:
        """Hand the result of all to the own agent."""
        self._own.report(result)

    def close(self) -> None:
        """End the own session."""
        self._own.close()

    # ---- by the team --------------------------------------------------------------

    def introduce(self, hellos: Sequence[Hello], counting: FrozenSet[int]) -> None:
        """Tell who they are, by rank."""
        self._hellos, self._counting = hellos, counting

    def take(self, told: Sequence[Facts]) -> None:
        """Take what all tell, by rank."""
        self._status = _status_of_all(
            {rank: told[rank] for rank in sorted(self._counting)},
            self._hellos,
            self.limits(),
            self._status,
        )

    def limits(self) -> Tuple[Optional[float], ...]:
        """Return what each process shall ask for, by rank."""
        lead = self._hellos[0].gpu if self._hellos else None
        if self._watts is None or lead is None:
            return ()
        limits: List[Optional[float]] = []
        for rank, hello in enumerate(self._hellos):
            wanted = rank in self._counting and hello.gpu is not None
            limits.append(
                own_limit_watts(lead, hello.gpu, self._watts) if wanted and hello.gpu else None
            )
        return tuple(limits)

    def disband(self) -> None:
        """There is no team any more: nothing is held."""
        self._watts = None
        self._status = AgentStatus(losses=self._status.losses + 1, error="closed")


def _status_of_all(
    told: Mapping[int, Facts],
    hellos: Sequence[Hello],
    wanted: Sequence[Optional[float]],
    before: AgentStatus,
) -> AgentStatus:
    """Return the status of a team; its leases and problems go by the UUID of rank 0's GPU."""
    lead = hellos[0].gpu if hellos else None
    if lead is None or not told:
        return AgentStatus()
    away = next((rank for rank, facts in told.items() if not facts.connected), None)
    refused = next((rank for rank, facts in told.items() if facts.refusal is not None), None)
    troubled = next((rank for rank, facts in told.items() if facts.problem is not None), None)
    held = [facts.held for facts in told.values()]
    leases = {}
    if all(limit is not None for limit in held):
        targets = [wanted[rank] if rank < len(wanted) else None for rank in told]
        if all(_fits(limit, target) for limit, target in zip(held, targets)):
            leases = {lead.uuid: _lease(lead.uuid, held)}
        else:
            leases = dict(before.leases)  # some are ahead by some milliseconds
    return AgentStatus(
        connected=away is None,
        error="" if away is None else said(away, hellos, told[away].error),
        refusal=None if refused is None else _error(refused, hellos, told[refused].refusal),
        leases=leases,
        problems={}
        if troubled is None
        else {lead.uuid: _error(troubled, hellos, told[troubled].problem)},
        losses=sum(facts.losses for facts in told.values()),
    )


def _fits(held: Optional[HeldLimit], wanted: Optional[float]) -> bool:
    return (
        held is not None and wanted is not None and abs(held.requested - wanted) <= SAME_WATTS / 2
    )


def _lease(uuid: str, held: Sequence[Optional[HeldLimit]]) -> Lease:
    """Return rank 0's limit as the lease of all."""
    first = held[0]
    assert first is not None
    dry_run = any(limit is not None and limit.dry_run for limit in held)
    return Lease("", uuid, 0, first.requested, first.applied, first.previous, dry_run=dry_run)


def _error(rank: int, hellos: Sequence[Hello], problem: Optional[Problem]) -> AgentError:
    assert problem is not None
    return AgentError(problem.code, said(rank, hellos, problem.message))


def said(rank: int, hellos: Sequence[Hello], words: str) -> str:
    """Say whose words they are, if they are not rank 0's own."""
    return words if rank == 0 else f"{words} (rank {rank} on {hellos[rank].host})"
