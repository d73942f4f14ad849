"""Rank 0 of a team: hears all, and orders what all do next."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

from zeus_runtime.accounting import FINAL_WAIT_SECONDS
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.notices import Notices
from zeus_runtime.team_channel import ChannelBroken
from zeus_runtime.team_energy import TeamMeter
from zeus_runtime.team_limits import TeamAgent, said
from zeus_runtime.team_member import Member
from zeus_runtime.team_messages import (
    Facts,
    Hello,
    Occasion,
    Orders,
    SweepFacts,
    decode_facts,
    encode,
)
from zeus_runtime.trial import NEVER

SAME_METRIC = 1e-6  # relative


class TeamLead:
    """The meetings of a team, from rank 0's side.

    Whatever goes wrong ends the team and never the training: limits are given back, energy is
    unknown from then on, and every process goes on for itself.

    Args:
        member: this process.
        meter: of all.
        agent: of all; None: this process has none.
        orders: gives what the run wants of all, at the end of a meeting.

    Attributes:
        meets: whether a meeting is going on.
        unswept: why not all loaders can serve other batch sizes; "": they can.
        sweeping: what all tell within a sweep, by rank.
        sharing: the most processes that train on one GPU.
    """

    def __init__(
        self,
        member: Member,
        meter: TeamMeter,
        agent: Optional[TeamAgent],
        notices: Notices,
        orders: Callable[[], Orders],
    ) -> None:
        self._member, self._meter, self._agent = member, meter, agent
        self._notices, self._orders = notices, orders
        self._hellos: Sequence[Hello] = ()
        self.over = ""
        self.ended = False
        self.asked_to_end = False
        self.all_have_agents = False
        self.other_batch_sizes = ""
        self.meets = False
        self.unswept = ""
        self.sweeping: Sequence[SweepFacts] = ()
        self.sharing = 1

    @contextmanager
    def meeting(
        self,
        occasion: Occasion,
        steps: int,
        metric: Optional[float],
        sweep: Optional[SweepFacts] = None,
    ) -> Iterator[None]:
        """Meet all; what is done inside is done at one moment of all, and ends with orders.

        Args:
            steps: training steps so far.
            metric: the last reported one.
            sweep: what this process tells within a sweep; None: they meet for something else.
        """
        if self.over:
            yield
            return
        try:
            heard = self._member.tell(occasion, steps, metric, sweep)
            self._hear(occasion, heard, steps, metric)
            self._meter.meet(self._member.meetings - 1)
            if occasion is Occasion.FINAL:
                self._settle()
        except ChannelBroken as broken:
            self.disband(str(broken))
        self.meets = True
        try:
            yield
        except BaseException:
            self.disband("rank 0 has failed")
            raise
        finally:
            self.meets = False
            self._meter.part()
        if not self.over:
            self._give(occasion, self._orders())

    def meets_at_end(self, ends_here: bool) -> bool:
        """Return whether all meet once more where the run ends.

        Args:
            ends_here: the script has ended it by itself, which is the end for all.
        """
        self.ended = self.ended or (ends_here and not self.over)
        return self.ended and not self.over

    def disband(self, why: str) -> None:
        """There is no team any more; tell those who still listen."""
        if self.over:
            return
        self.over = why
        if self.ended:
            self._meter.settle_by_estimate()  # what was known up to the end stays known
        else:
            self._meter.fail(f"the processes of this run have lost each other: {why}")
        if self._agent is not None:
            self._agent.disband()
        self._member.obey(None)
        if not self.ended:
            self._notices.warn(
                "team",
                f"the processes of this run have lost each other: {why}. Energy is unknown from "
                "now on, and no power limit is held; training goes on",
            )
        self._member.channel.close()

    def leave(self) -> None:
        """The run has ended here, perhaps not so for the others."""
        self.over = self.over or "rank 0 has left"
        self._member.channel.close()

    # ---- inside ---------------------------------------------------------------------

    def _hear(
        self,
        occasion: Occasion,
        heard: Tuple[bytes, ...],
        steps: int,
        metric: Optional[float],
    ) -> None:
        told = [decode_facts(data) for data in heard]
        for rank, facts in enumerate(told):
            if (facts.occasion, facts.steps) != (occasion.value, steps):
                self._part_ways(
                    f"rank {rank} is at {facts.occasion!r} after {facts.steps} steps, and rank 0 "
                    f"at {occasion.value!r} after {steps}: every process must train the same "
                    "number of steps and evaluate at the same places"
                )
        if not self._hellos:
            self._introduce([facts.hello for facts in told])
        for rank, facts in enumerate(told):
            self._meter.take(rank, facts.marks, facts.period_seconds, facts.joules)
        if self._agent is not None:
            self._agent.take(told)
        self.asked_to_end = self.asked_to_end or any(facts.asked_to_end for facts in told)
        self.sweeping = [
            replace(facts.sweep, problem=said(rank, self._hellos, facts.sweep.problem))
            if facts.sweep.problem
            else facts.sweep
            for rank, facts in enumerate(told)
            if facts.sweep is not None
        ]
        self._compare_metrics(told, metric)

    def _part_ways(self, why: str) -> None:
        """Tell all that there is no team any more, which they can't see for themselves."""
        self._member.channel.broadcast(encode(Orders(NEVER, disband=why)))
        raise ChannelBroken(why)

    def _introduce(self, hellos: Sequence[Optional[Hello]]) -> None:
        known = [hello for hello in hellos if hello is not None]
        if len(known) < len(hellos):
            self._part_ways("a process joined a run that had begun")
        self._hellos = known
        counting = _one_of_each_gpu(known)
        if len(counting) < len(known):
            self._notices.warn(
                "gpu-shared",
                f"{len(known)} processes train on {len(counting)} GPUs, which count once. Where "
                "each has one of its own, call torch.cuda.set_device before the training loader "
                "is made",
            )
        own = self._member.gpu
        without = next((rank for rank, hello in enumerate(known) if hello.gpu is None), None)
        if own is None or without is not None:
            rank = without or 0
            problem = f"{known[rank].problem} (rank {rank} on {known[rank].host})"
            self._meter.introduce(None, (), problem)
        else:
            facts = [hello.gpu for hello in known if hello.gpu is not None]
            self._meter.introduce(
                own.of_team(_facts_of_all([facts[rank] for rank in counting])), counting
            )
        self.all_have_agents = all(known[rank].has_agent for rank in counting)
        if self._agent is not None:
            self._agent.introduce(known, frozenset(counting))
        self.other_batch_sizes = _other_batch_sizes(known)
        self.unswept = self.other_batch_sizes or _why_not_swept(known)
        uuids = Counter(hello.gpu.uuid for hello in known if hello.gpu is not None)
        self.sharing = max(uuids.values(), default=1)

    def _compare_metrics(self, told: Sequence[Facts], metric: Optional[float]) -> None:
        """Say once that the metric was not reduced over all processes."""
        if metric is None or not math.isfinite(metric):
            return
        for rank, facts in enumerate(told):
            other = facts.metric
            if other is not None and not math.isclose(other, metric, rel_tol=SAME_METRIC):
                self._notices.warn(
                    "metric",
                    f"rank {rank} reports a metric of {other:.6g} and rank 0 one of {metric:.6g}: "
                    "reduce it over all processes (torch.distributed.all_reduce) before "
                    "report_metric. That of rank 0 counts",
                )

    def _give(self, occasion: Occasion, orders: Orders) -> None:
        limits = () if self._agent is None else self._agent.limits()
        self.ended = self.ended or orders.ending is not None
        try:
            self._member.channel.broadcast(encode(replace(orders, limits=limits)))
            if orders.need_agreement(occasion):
                self._member.channel.agree()
        except ChannelBroken as broken:
            self.disband(str(broken))
            return
        self._member.obey(limits[0] if limits else None)

    def _settle(self) -> None:
        """Within the last meeting: all wait for their energy at it, and tell it."""
        self._member.wait_for_energy(FINAL_WAIT_SECONDS)
        heard = self._member.tell(Occasion.SETTLE, 0)
        for rank, facts in enumerate(decode_facts(data) for data in heard):
            self._meter.take(rank, facts.marks, facts.period_seconds)


def _one_of_each_gpu(hellos: Sequence[Hello]) -> List[int]:
    """Return the ranks whose GPU no lower one has: energy counts once."""
    seen = set()
    counting = []
    for rank, hello in enumerate(hellos):
        uuid = "" if hello.gpu is None else hello.gpu.uuid
        if uuid not in seen:
            seen.add(uuid)
            counting.append(rank)
    return counting


def _facts_of_all(gpus: Sequence[GpuFacts]) -> GpuFacts:
    """Return the facts of rank 0's GPU with what is of all of them."""
    models = Counter(gpu.model for gpu in gpus)
    # One name as if there were one GPU: the count is told apart.
    names = [f"{n} x {model}" if len(models) > 1 else model for model, n in models.items()]
    most = [gpu.max_limit_watts for gpu in gpus]
    return replace(
        gpus[0],
        model=" + ".join(names),
        count=len(gpus),
        all_max_watts=None if None in most else sum(watts or 0.0 for watts in most),
    )


def _other_batch_sizes(hellos: Sequence[Hello]) -> str:
    """Say who trains with another global batch size than rank 0; "": nobody."""
    own = hellos[0].batch_size
    for rank, hello in enumerate(hellos):
        if hello.batch_size != own:
            return (
                f"rank {rank} trains with a global batch size of {hello.batch_size}, rank 0 with "
                f"{own}"
            )
    return ""


def _why_not_swept(hellos: Sequence[Hello]) -> str:
    """Say whose loader can serve no other batch sizes, or not of the same data; "": nobody's."""
    own, processes = hellos[0].data, len(hellos)
    if own is not None and own.shares != processes:
        # Those that work on one share must have the same samples, which a sweep draws for each.
        return (
            f"each share of a batch needs one process, and there are {processes} for {own.shares}"
        )
    for rank, hello in enumerate(hellos):
        if hello.swept:
            return (
                f"rank {rank} on {hello.host} goes on from a checkpoint that is after a sweep, and "
                "rank 0 does not"
            )
        if hello.data is None:
            return (
                f"the loader of rank {rank} on {hello.host} can't serve any (its sampler is no "
                "DistributedSampler of torch's, or it has an iterable dataset)"
            )
        if own is None or hello.data == own:
            continue
        if replace(hello.data, largest_batch=own.largest_batch) == own:
            return f"rank {rank} on {hello.host} has another largest_micro_batch than rank 0"
        return f"the loader of rank {rank} on {hello.host} has other data than that of rank 0"
    return ""
