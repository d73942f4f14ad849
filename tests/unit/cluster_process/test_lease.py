"""Who may take the Lease and how long it is held: time moves only when a test says so."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.cluster_process.lease_world import Clock, Link, Server
from zeus_operator.kube import Conflict, KubeError, KubeUnavailable
from zeus_operator.lease import Candidate, LeaseTimes

TIMES = LeaseTimes(15, 10, 2)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class World:
    """Candidates a and b, each with a clock of its own that runs as fast as the other's."""

    def __init__(self) -> None:
        self.server = Server()
        self.clocks = {"a": Clock(1000.0), "b": Clock(777.0)}
        self.links = {name: Link(self.server, clock) for name, clock in self.clocks.items()}
        self.a, self.b = (
            Candidate(
                self.links[name],
                name,
                TIMES,
                clock=self.clocks[name],
                wall_clock=lambda: NOON + timedelta(seconds=self.clocks["b"].now - 777),
            )
            for name in ("a", "b")
        )

    def advance(self, seconds: float) -> None:
        for clock in self.clocks.values():
            clock.advance(seconds)


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_makes_the_lease_and_leads(world: World) -> None:
    world.a.try_once()
    world.b.try_once()
    assert (world.a.is_leader, world.b.is_leader) == (True, False)
    assert world.b.observed_holder == "a"
    assert world.server.spec == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-03-01T12:00:00.000000Z",
        "renewTime": "2026-03-01T12:00:00.000000Z",
        "leaseTransitions": 0,
    }


def test_a_renewal_is_one_write_without_a_read(world: World) -> None:
    world.a.try_once()
    reads = world.links["a"].reads
    world.advance(2)
    world.a.try_once()
    assert world.links["a"].reads == reads
    assert world.a.seconds_left == 10


def test_a_renewed_lease_is_never_taken(world: World) -> None:
    world.a.try_once()
    for _ in range(50):
        world.advance(9)
        world.a.try_once()
        world.b.try_once()
        assert (world.a.is_leader, world.b.is_leader) == (True, False)


def test_a_lease_that_nobody_renews_is_taken_after_its_duration(world: World) -> None:
    world.a.try_once()
    world.b.try_once()
    world.advance(14.9)
    world.b.try_once()
    assert not world.b.is_leader
    world.advance(0.1)
    world.b.try_once()
    assert world.b.is_leader
    assert world.server.spec["leaseTransitions"] == 1


def test_what_counts_is_when_a_change_was_seen_and_not_what_the_record_says(world: World) -> None:
    """The holder's wall clock may be years behind."""
    world.server.write(
        {
            "holderIdentity": "z",
            "leaseDurationSeconds": 15,
            "acquireTime": "1999-01-01T00:00:00.000000Z",
            "renewTime": "1999-01-01T00:00:00.000000Z",
        },
        None,
    )
    world.b.try_once()
    world.advance(14.9)
    world.b.try_once()
    assert not world.b.is_leader
    world.advance(0.1)
    world.b.try_once()
    assert world.b.is_leader


def test_the_duration_of_the_holder_counts_and_not_ones_own(world: World) -> None:
    world.server.write({"holderIdentity": "z", "leaseDurationSeconds": 60}, None)
    world.b.try_once()
    world.advance(59)
    world.b.try_once()
    assert not world.b.is_leader


def test_a_label_on_the_lease_is_no_sign_of_life(world: World) -> None:
    world.a.try_once()
    world.b.try_once()
    world.advance(14)
    world.server.touch()
    world.b.try_once()
    world.advance(1)
    world.b.try_once()
    assert world.b.is_leader


def test_a_label_on_the_lease_does_not_end_a_leadership(world: World) -> None:
    world.a.try_once()
    world.server.touch()
    world.advance(2)
    world.a.try_once()
    assert world.a.seconds_left == 10
    assert world.server.read()["metadata"]["labels"] == {"team": "ml"}  # type: ignore[index]


def test_a_lease_of_nobody_is_taken_at_once(world: World) -> None:
    world.server.write({"holderIdentity": "", "leaseDurationSeconds": 1}, None)
    world.b.try_once()
    assert world.b.is_leader


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": None}])
def test_an_empty_lease_is_taken_at_once(world: World, spec: dict[str, object]) -> None:
    world.server.write(spec, None)
    world.b.try_once()
    assert world.b.is_leader


def test_of_two_that_take_it_at_once_one_wins(world: World) -> None:
    world.server.write({"holderIdentity": "", "leaseDurationSeconds": 1}, None)
    stale = world.server.read()
    world.a.try_once()
    assert stale is not None
    with pytest.raises(Conflict):  # what b would write with what it read before
        world.links["b"].replace(stale)
    world.b.try_once()
    assert (world.a.is_leader, world.b.is_leader) == (True, False)


class TestALeaderThatIsCutOff:
    def test_gives_up_before_another_can_take_over(self, world: World) -> None:
        world.a.try_once()
        world.b.try_once()
        world.links["a"].cut = True
        while not world.b.is_leader:
            world.advance(1)
            with contextlib.suppress(KubeError):
                world.a.try_once()
            world.b.try_once()
            assert not (world.a.is_leader and world.b.is_leader)
        assert "could not be renewed for 10 s" in world.a.lost

    def test_goes_on_when_it_is_back_in_time(self, world: World) -> None:
        world.a.try_once()
        world.links["a"].cut = True
        world.advance(9)
        with pytest.raises(KubeUnavailable):
            world.a.try_once()
        world.links["a"].cut = False
        world.a.try_once()
        assert world.a.seconds_left == 10

    def test_never_leads_again_even_if_nobody_has_taken_over(self, world: World) -> None:
        world.a.try_once()
        world.advance(10)
        assert not world.a.is_leader
        world.a.try_once()
        assert not world.a.is_leader
        assert world.a.lost


class TestAStoppedProcess:
    def test_knows_when_it_wakes_that_it_does_not_lead(self, world: World) -> None:
        world.a.try_once()
        world.advance(20)
        assert not world.a.is_leader

    def test_is_not_revived_by_the_answer_to_a_request_from_before(self, world: World) -> None:
        world.a.try_once()
        world.links["a"].answer_takes_seconds = 20
        world.a.try_once()
        assert not world.a.is_leader
        assert world.a.lost

    def test_is_not_revived_by_a_renewal_that_ends_after_the_deadline(self, world: World) -> None:
        world.a.try_once()
        world.advance(9.5)
        world.links["a"].answer_takes_seconds = 1
        world.a.try_once()
        assert not world.a.is_leader

    def test_does_not_begin_to_lead_by_an_answer_that_is_too_old(self, world: World) -> None:
        world.server.write({}, None)
        world.links["a"].answer_takes_seconds = 10
        world.a.try_once()
        assert not world.a.is_leader
        assert not world.a.lost
        world.links["a"].answer_takes_seconds = 0
        world.a.try_once()  # its own write is there
        assert world.a.is_leader


class TestAnAnswerThatIsLost:
    def test_after_the_write_is_no_loss_of_the_lease(self, world: World) -> None:
        world.a.try_once()
        world.links["a"].answer_lost = True
        world.advance(2)
        with pytest.raises(KubeUnavailable):
            world.a.try_once()
        world.links["a"].answer_lost = False
        world.a.try_once()
        assert world.a.seconds_left == 10

    def test_counts_from_the_last_write_that_was_answered(self, world: World) -> None:
        world.a.try_once()
        world.links["a"].answer_lost = True
        world.advance(2)
        with pytest.raises(KubeUnavailable):
            world.a.try_once()
        assert world.a.seconds_left == 8


def test_who_sees_another_holder_has_lost_at_once(world: World) -> None:
    world.a.try_once()
    lease = world.server.read()
    assert lease is not None
    world.server.write(
        {**lease["spec"], "holderIdentity": "b"}, lease["metadata"]["resourceVersion"]
    )
    world.advance(2)
    world.a.try_once()
    assert not world.a.is_leader
    assert world.a.lost == "b has taken the Lease"


def test_a_lease_that_was_deleted_is_its_leaders_for_as_long_as_that_may_lead(world: World) -> None:
    world.a.try_once()
    world.b.try_once()
    world.server.lease = None
    world.advance(14.9)
    world.b.try_once()
    assert not world.b.is_leader
    world.advance(0.1)
    world.b.try_once()
    assert (world.a.is_leader, world.b.is_leader) == (False, True)


def test_a_lease_that_was_deleted_is_waited_for_by_who_has_not_seen_its_leader_leave(
    world: World,
) -> None:
    world.a.try_once()
    world.b.try_once()
    world.a.release()
    world.links["b"].cut = True
    with contextlib.suppress(KubeError):
        world.b.try_once()
    world.links["b"].cut = False
    emptied = world.server.lease
    world.server.lease = None
    world.b.try_once()
    assert not world.b.is_leader, "it has not seen that the leader left"
    world.server.lease = emptied
    world.b.try_once()
    assert world.b.is_leader


def test_a_lease_that_was_deleted_is_made_again_by_its_leader(world: World) -> None:
    world.a.try_once()
    world.server.lease = None
    world.advance(2)
    world.a.try_once()
    assert world.a.is_leader
    assert world.server.spec["holderIdentity"] == "a"


class TestRelease:
    def test_lets_another_take_over_at_once(self, world: World) -> None:
        world.a.try_once()
        world.b.try_once()
        world.a.release()
        assert not world.a.is_leader
        assert world.server.spec["holderIdentity"] == ""
        assert world.server.spec["leaseDurationSeconds"] == 1
        world.b.try_once()
        assert world.b.is_leader

    def test_by_a_standby_changes_nothing(self, world: World) -> None:
        world.a.try_once()
        world.b.try_once()
        world.b.release()
        assert world.server.spec["holderIdentity"] == "a"

    def test_after_a_loss_changes_nothing(self, world: World) -> None:
        world.a.try_once()
        world.b.try_once()
        world.advance(15)
        world.b.try_once()
        world.a.release()
        assert world.server.spec["holderIdentity"] == "b"

    def test_stops_leading_before_the_lease_is_free(self, world: World) -> None:
        world.a.try_once()
        world.links["a"].answer_lost = True
        with pytest.raises(KubeUnavailable):
            world.a.release()
        assert not world.a.is_leader


def test_a_standby_can_tell_that_it_reads_the_lease(world: World) -> None:
    assert world.b.contact_age_seconds is None
    world.a.try_once()
    world.b.try_once()
    world.links["b"].cut = True
    world.advance(7)
    with pytest.raises(KubeUnavailable):
        world.b.try_once()
    assert world.b.contact_age_seconds == 7


@pytest.mark.parametrize("times", [(10, 10, 2), (15, 2.4, 2), (15, 10, 0)])
def test_times_by_which_two_could_lead_are_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        LeaseTimes(*times)
