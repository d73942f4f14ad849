"""What rank 0 makes of what all tell: sums, one lease, and messages that travel unchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zeus_runtime.agent_background import AgentStatus, BackgroundAgent
from zeus_runtime.agent_client import AgentError
from zeus_runtime.gpu import Gpu, GpuFacts, GpuUnavailable
from zeus_runtime.meter import EnergyMeter
from zeus_runtime.place import Place, local_rank_of
from zeus_runtime.protocol import Lease, Outcome, SessionRequest
from zeus_runtime.stop import Ending
from zeus_runtime.team_channel import ChannelBroken
from zeus_runtime.team_energy import TeamMeter
from zeus_runtime.team_limits import TeamAgent, own_limit_watts
from zeus_runtime.team_messages import (
    Facts,
    HeldLimit,
    Hello,
    Occasion,
    Orders,
    Problem,
    decode_facts,
    decode_orders,
    encode,
    ending_fields,
    facts_of_agent,
)

V100 = GpuFacts("GPU-1", "V100", "1.0", min_limit_watts=100.0, max_limit_watts=250.0)
A40 = GpuFacts("GPU-2", "A40", "1.0", min_limit_watts=100.0, max_limit_watts=300.0)


class Clock:
    """Time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def no_gpu() -> Gpu:
    raise GpuUnavailable("none in this test")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> TeamMeter:
    """A meter of ranks 0 and 1."""
    made = TeamMeter(EnergyMeter(no_gpu), clock=clock)
    made.introduce(Gpu(V100, None, None), (0, 1))
    return made


# ---- energy -----------------------------------------------------------------------


def test_the_energy_of_a_meeting_is_known_when_all_have_told(meter: TeamMeter) -> None:
    meter.meet(0)
    mark = meter.mark()
    meter.part()
    meter.take(0, [(0, 100.0)], 0.02)
    assert mark.energy is None
    meter.take(1, [(0, 40.0)], 0.1)
    assert mark.energy is not None
    assert mark.energy.joules == 140.0


def test_the_ticks_of_all_are_those_of_the_slowest_counter(meter: TeamMeter) -> None:
    meter.take(0, [], 0.02)
    assert meter.period_seconds is None
    meter.take(1, [], 0.1)
    assert meter.period_seconds == 0.1


def test_between_meetings_each_gpu_goes_on_as_it_did(meter: TeamMeter, clock: Clock) -> None:
    for number, now in enumerate((0.0, 10.0)):
        clock.now = now
        meter.meet(number)
        meter.part()
    meter.take(0, [(0, 0.0), (1, 1000.0)], 0.02)
    meter.take(1, [(0, 500.0), (1, 2500.0)], 0.02)
    clock.now = 11.0
    mark = meter.mark()
    assert mark.energy is not None
    assert mark.energy.joules == pytest.approx(3500.0 + 100.0 + 200.0)


def test_power_is_told_by_moments_that_lie_some_ticks_apart(meter: TeamMeter, clock: Clock) -> None:
    for now, joules in ((0.0, 0.0), (10.0, 1000.0), (10.001, 1000.0)):  # no tick in between
        clock.now = now
        for rank in (0, 1):
            meter.take(rank, [], 0.1, joules)
    clock.now = 20.0
    mark = meter.mark()
    assert mark.energy is not None
    assert mark.energy.joules == pytest.approx(4000.0, rel=0.01)


def test_what_was_known_when_the_run_ended_stays_known(meter: TeamMeter, clock: Clock) -> None:
    for rank in (0, 1):
        meter.take(rank, [], 0.1, 500.0)
    meter.meet(0)
    mark = meter.mark()
    meter.settle_by_estimate()
    assert mark.energy is not None
    assert mark.energy.joules == 1000.0
    assert not mark.failed


def test_what_a_process_says_of_now_is_newer_than_its_last_meeting(
    meter: TeamMeter, clock: Clock
) -> None:
    meter.meet(0)
    meter.part()
    for rank in (0, 1):
        meter.take(rank, [(0, 0.0)], 0.02)
    clock.now = 5.0
    for rank in (0, 1):
        meter.take(rank, [], 0.02, 700.0)
    mark = meter.mark()
    assert mark.energy is not None
    assert mark.energy.joules == pytest.approx(1400.0)


def test_a_gpu_that_cannot_be_read_leaves_the_sum_unknown_until_it_can(meter: TeamMeter) -> None:
    meter.meet(0)
    lost = meter.mark()
    meter.part()
    meter.take(0, [(0, 1.0)], 0.02)
    meter.take(1, [(0, None)], 0.02)
    assert lost.failed
    assert meter.problem == "the GPU of rank 1 could not be read"
    assert meter.mark().failed, "nothing is guessed meanwhile"
    meter.meet(1)
    back = meter.mark()
    meter.part()
    meter.take(0, [(1, 2.0)], 0.02)
    meter.take(1, [(1, 3.0)], 0.02)
    assert back.energy is not None
    assert meter.problem == ""


def test_a_rank_whose_gpu_another_one_has_does_not_count(meter: TeamMeter) -> None:
    meter.meet(0)
    mark = meter.mark()
    meter.part()
    for rank in (0, 1, 2):
        meter.take(rank, [(0, 10.0)], 0.02)
    assert mark.energy is not None
    assert mark.energy.joules == 20.0


def test_a_team_that_has_failed_knows_nothing_more(meter: TeamMeter) -> None:
    meter.meet(0)
    mark = meter.mark()
    meter.fail("rank 1 is gone")
    meter.part()
    meter.take(0, [(0, 1.0)], 0.02)
    meter.take(1, [(0, 1.0)], 0.02)
    assert mark.failed
    assert (meter.problem, meter.period_seconds) == ("rank 1 is gone", None)


# ---- limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "watts", "expected"),
    [
        (V100, 175.0, 175.0),
        (replace(V100, max_limit_watts=150.0), 175.0, 150.0),  # bounds of its own
        (A40, 175.0, 200.0),  # half-way between its bounds, too
        (A40, 250.0, 300.0),
        (replace(A40, min_limit_watts=None), 175.0, 175.0),
    ],
)
def test_the_limit_of_a_gpu_where_that_of_rank_0_is_known(
    own: GpuFacts, watts: float, expected: float
) -> None:
    assert own_limit_watts(V100, own, watts) == expected


def hello(gpu: GpuFacts | None = V100, host: str = "b") -> Hello:
    return Hello(host, "", gpu, 16, True)


def facts(held: float | None = None, **more: object) -> Facts:
    lease = None if held is None else HeldLimit(held, held, 225.0, False)
    return replace(Facts("step", 1, held=lease, connected=True), **more)  # type: ignore[arg-type]  # by name


@pytest.fixture
def agent() -> TeamAgent:
    """The agents of ranks 0 and 1."""
    made = TeamAgent(BackgroundAgent("unix:///nowhere", "run", SessionRequest()))
    made.introduce([hello(host="a"), hello()], frozenset({0, 1}))
    return made


def test_a_limit_is_held_when_all_hold_it(agent: TeamAgent) -> None:
    agent.want_power_limit("GPU-1", 175.0)
    assert agent.limits() == (175.0, 175.0)
    agent.take([facts(175.0), facts()])
    assert agent.status.leases == {}
    agent.take([facts(175.0), facts(175.0)])
    lease = agent.status.leases["GPU-1"]
    assert (lease.requested_watts, lease.applied_watts, lease.previous_watts) == (175, 175, 225)


def test_while_some_are_ahead_the_former_limit_counts(agent: TeamAgent) -> None:
    agent.want_power_limit("GPU-1", 175.0)
    agent.take([facts(175.0), facts(175.0)])
    agent.want_power_limit("GPU-1", 150.0)
    agent.take([facts(150.0), facts(175.0)])
    assert agent.status.leases["GPU-1"].requested_watts == 175.0


def test_what_one_agent_refuses_is_refused_to_all_and_says_where(agent: TeamAgent) -> None:
    agent.want_power_limit("GPU-1", 175.0)
    agent.take([facts(175.0), facts(problem=Problem("policy_denied", "not on this node"))])
    problem = agent.status.problems["GPU-1"]
    assert (problem.code, problem.message) == ("policy_denied", "not on this node (rank 1 on b)")


def test_an_agent_that_is_away_is_away_for_all(agent: TeamAgent) -> None:
    agent.take([facts(), facts(connected=False, error="refused")])
    assert not agent.status.connected
    assert agent.status.error == "refused (rank 1 on b)"


def test_leases_lost_anywhere_are_lost(agent: TeamAgent) -> None:
    agent.want_power_limit("GPU-1", 175.0)
    agent.take([facts(175.0), facts(175.0)])
    before = agent.status.losses
    agent.take([facts(175.0), facts(losses=1)])
    assert agent.status.losses == before + 1
    assert agent.status.leases == {}


def test_a_dry_run_anywhere_is_one_for_all(agent: TeamAgent) -> None:
    agent.want_power_limit("GPU-1", 175.0)
    dry = HeldLimit(175.0, 175.0, 225.0, True)
    agent.take([facts(175.0), replace(facts(), held=dry)])
    assert agent.status.leases["GPU-1"].dry_run


def test_released_is_released_for_all(agent: TeamAgent) -> None:
    agent.want_power_limit("GPU-1", 175.0)
    agent.release("GPU-1")
    assert agent.limits() == ()


# ---- messages ---------------------------------------------------------------------


def test_facts_travel_unchanged() -> None:
    told = Facts(
        Occasion.BEGIN.value,
        7,
        marks=((0, 1.5), (1, None)),
        held=HeldLimit(175.0, 175.0, 250.0, False),
        problem=Problem("busy", "later"),
        refusal=Problem("forbidden", "no"),
        connected=True,
        losses=2,
        metric=0.5,
        period_seconds=0.1,
        joules=3.0,
        hello=hello(),
    )
    assert decode_facts(encode(told)) == told


def test_orders_travel_unchanged() -> None:
    ending = Ending(Outcome.COST_EXCEEDED, "too dear", stops_script=True)
    orders = Orders(9, limits=(175.0, None), ending=ending_fields(ending), result="{}")
    arrived = decode_orders(encode(orders))
    assert arrived == orders
    assert arrived.ends_by == ending


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"occasion":"step"}', b"\xff"])
def test_what_cannot_be_understood_ends_the_team(data: bytes) -> None:
    with pytest.raises(ChannelBroken, match="the same release"):
        decode_facts(data)
    with pytest.raises(ChannelBroken, match="the same release"):
        decode_orders(data)


def test_an_outcome_of_a_newer_release_cannot_be_obeyed() -> None:
    with pytest.raises(ChannelBroken):
        decode_orders(encode(Orders(1, ending=("weary", "no more", True))))


def test_what_is_told_of_the_agent() -> None:
    lease = Lease("s", "GPU-1", 1, 180.0, 175.0, 250.0)
    status = AgentStatus(
        connected=True,
        error="",
        leases={"GPU-1": lease},
        problems={"GPU-1": AgentError("busy", "x" * 1000)},
        losses=3,
    )
    told = facts_of_agent(status, "GPU-1")
    assert told["held"] == HeldLimit(180.0, 175.0, 250.0, False)
    assert len(told["problem"].message) == 300, "a message has a constant size"
    assert facts_of_agent(None, "GPU-1") == {}
    assert facts_of_agent(status, "GPU-other")["held"] is None


# ---- places -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "local_rank", "expected"),
    [
        (None, 1, "1"),
        ("GPU-a, GPU-b", 1, "GPU-b"),
        ("GPU-a", 3, "GPU-a"),  # each process was given its own
        ("0,1", 2, ""),  # none is left for it
    ],
)
def test_each_process_of_a_machine_has_the_gpu_of_its_number(
    listed: str | None, local_rank: int, expected: str
) -> None:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    place = Place(rank=5, size=8, local_rank=local_rank)
    assert place.own_devices(environ)["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.parametrize(
    ("environ", "rank", "expected"),
    [
        ({"LOCAL_RANK": "2", "PET_NODE_RANK": "5"}, 5, 2),  # torchrun tells
        ({"PET_NODE_RANK": "1"}, 1, 0),  # a Worker of a PyTorchJob, without torchrun
        ({"JOB_COMPLETION_INDEX": "3"}, 3, 0),  # a pod of an Indexed Job, the same
        ({"JOB_COMPLETION_INDEX": "0"}, 3, 3),  # one of several in the first pod
        ({}, 3, 3),  # one machine
    ],
)
def test_where_a_rank_is_a_pod_it_is_the_first_of_its_machine(
    environ: dict[str, str], rank: int, expected: int
) -> None:
    assert local_rank_of(environ, rank) == expected
