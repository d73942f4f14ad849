"""When an authority is made, when it signs, when the certificate is renewed: a table and a life."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeus_operator.trust.certificates import BACKDATED
from zeus_operator.trust.plan import (
    AUTHORITY_LIFE,
    CERTIFICATE_LIFE,
    LAST_SIGNATURE,
    MOST_AUTHORITIES,
    SUCCESSOR_AFTER,
    AuthorityFacts,
    LeafFacts,
    bundle,
    plan_access,
    plan_authorities,
    plan_certificate,
    renewal_time,
    signer,
)

NOW = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = frozenset({"zeus-agent.zeus-system.svc"})


def authority(
    name: str = "a", age: timedelta = DAY, *, can_sign: bool = True, now: datetime = NOW
) -> AuthorityFacts:
    """Return an authority that was made `age` ago."""
    made = now - age
    return AuthorityFacts(name, made - BACKDATED, made + AUTHORITY_LIFE, can_sign, f"<{name}>")


def leaf(
    issuer: str = "a",
    age: timedelta = DAY,
    *,
    names: frozenset[str] = NAMES,
    life: timedelta = CERTIFICATE_LIFE,
) -> LeafFacts:
    made = NOW - age
    return LeafFacts(issuer, made - BACKDATED, made + life, names)


# Authorities -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        pytest.param([], "there is none", id="never made, or its Secret deleted"),
        pytest.param([authority(can_sign=False)], "none that can sign", id="half written: no key"),
        pytest.param([authority(age=AUTHORITY_LIFE + DAY)], "none that can sign", id="expired"),
        pytest.param([authority(age=-400 * DAY)], "none that can sign", id="from a clock ahead"),
        pytest.param([authority(age=SUCCESSOR_AFTER + DAY)], "the newest ends at", id="old enough"),
        pytest.param(
            [authority(age=SUCCESSOR_AFTER + DAY), authority("b", can_sign=False)],
            "the newest ends at",
            id="its successor has lost its key",
        ),
    ],
)
def test_an_authority_is_made_where(kept: list[AuthorityFacts], why: str) -> None:
    due = plan_authorities(kept, NOW)
    assert due is not None
    assert why in due.reason


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param([authority()], id="a young one"),
        pytest.param([authority(age=SUCCESSOR_AFTER - DAY)], id="before half of its life"),
        pytest.param([authority(age=SUCCESSOR_AFTER + DAY), authority("b")], id="with a successor"),
        pytest.param([authority(), authority("b", can_sign=False)], id="beside one without a key"),
    ],
)
def test_none_is_made_with(kept: list[AuthorityFacts]) -> None:
    assert plan_authorities(kept, NOW) is None


def test_the_one_that_is_followed_is_kept_and_so_is_one_that_lost_its_key() -> None:
    old, broken = authority("old", SUCCESSOR_AFTER + DAY), authority("broken", can_sign=False)
    due = plan_authorities([old, broken], NOW)
    assert due is not None
    assert due.keep == {"old", "broken"}


def test_what_has_ended_is_kept_for_a_clock_that_comes_back_but_not_published() -> None:
    """The clock is ten years ahead for a moment: everything seems to have ended."""
    before = [authority("a"), authority("b")]
    ahead = NOW + 3650 * DAY
    due = plan_authorities(before, ahead)
    assert due is not None
    assert due.keep == {"a", "b"}
    made = AuthorityFacts("c", ahead - BACKDATED, ahead + AUTHORITY_LIFE, True, "<c>")
    assert bundle([*before, made], ahead) == "<c>"

    back = [*before, made]
    assert plan_authorities(back, NOW) is None
    assert bundle(back, NOW).startswith("<a>")
    by = signer(back, NOW)
    assert by is not None
    assert by.fingerprint in ("a", "b")


def test_clocks_that_jump_again_and_again_leave_a_bounded_number() -> None:
    kept: list[AuthorityFacts] = []
    for jump in range(30):
        now = NOW + (jump % 5) * 4000 * DAY + jump * DAY
        due = plan_authorities(kept, now)
        if due is not None:
            kept = [each for each in kept if each.fingerprint in due.keep]
            kept.append(authority(f"jump-{jump}", timedelta(0), now=now))
        assert len(kept) <= MOST_AUTHORITIES


def test_what_clocks_ahead_have_left_behind_pushes_out_nobody_who_counts_now() -> None:
    signs, lost = authority("signs", SUCCESSOR_AFTER + DAY), authority("lost", can_sign=False)
    ahead = [authority(f"ahead-{number}", -(number + 1) * 100 * DAY) for number in range(9)]
    due = plan_authorities([*ahead, lost, signs], NOW)
    assert due is not None
    assert {"signs", "lost"} < due.keep
    assert len(due.keep) == MOST_AUTHORITIES - 1


def test_the_one_that_signs_is_kept_whatever_else_is_valid() -> None:
    """It is the oldest: whoever runs knows it."""
    old = SUCCESSOR_AFTER + 100 * DAY
    many = [authority(f"ca-{number}", old - number * DAY) for number in range(10)]
    by = signer(many, NOW)
    due = plan_authorities(many, NOW)
    assert by is not None
    assert due is not None
    assert by.fingerprint == "ca-0"
    assert "ca-0" in due.keep


def test_the_bundle_is_the_same_in_whatever_order_authorities_are_read() -> None:
    three = [authority("a", 3 * DAY), authority("b", 2 * DAY), authority("c", 2 * DAY)]
    assert {bundle(each, NOW) for each in itertools.permutations(three)} == {"<a><b><c>"}


# Who signs -------------------------------------------------------------------------


def test_a_successor_signs_only_when_the_other_is_about_to_end() -> None:
    def signs(age: timedelta) -> str:
        found = signer([authority("old", age), authority("new")], NOW)
        assert found is not None
        return found.fingerprint

    assert signs(AUTHORITY_LIFE - LAST_SIGNATURE - DAY) == "old"
    assert signs(AUTHORITY_LIFE - LAST_SIGNATURE + DAY) == "new"


def test_nobody_signs_without_a_key_or_out_of_time() -> None:
    assert signer([authority(can_sign=False), authority(age=-DAY)], NOW) is None


# The certificate -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "kept", "why"),
    [
        pytest.param(None, [authority()], "none that is whole", id="missing or half written"),
        pytest.param(leaf("x"), [authority()], "nobody trusts", id="of a strange authority"),
        pytest.param(
            leaf("old"),
            [authority("old", AUTHORITY_LIFE + DAY), authority()],
            "nobody trusts",
            id="its authority has ended",
        ),
        pytest.param(
            leaf(names=frozenset({"a"})), [authority()], "other names", id="Service renamed"
        ),
        pytest.param(leaf(age=-DAY), [authority()], "not valid yet", id="made by a clock ahead"),
        pytest.param(leaf(age=61 * DAY), [authority()], "it ends at", id="two thirds are over"),
        pytest.param(leaf(age=91 * DAY), [authority()], "it ends at", id="expired while away"),
    ],
)
def test_the_certificate_is_issued_where(
    found: LeafFacts | None, kept: list[AuthorityFacts], why: str
) -> None:
    due = plan_certificate(found, kept, NAMES, NOW)
    assert due is not None
    assert why in due.reason
    assert due.by == "a"


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        pytest.param(leaf(), [authority()], id="young"),
        pytest.param(leaf(age=59 * DAY), [authority()], id="before two thirds of its life"),
        pytest.param(leaf(), [authority(can_sign=False), authority("b")], id="signed by lost key"),
        pytest.param(
            leaf("old"),
            [authority("old", AUTHORITY_LIFE - LAST_SIGNATURE + DAY), authority()],
            id="its authority signs no more, and is trusted yet",
        ),
    ],
)
def test_the_certificate_stays_with(found: LeafFacts, kept: list[AuthorityFacts]) -> None:
    assert plan_certificate(found, kept, NAMES, NOW) is None


# A life ----------------------------------------------------------------------------


@dataclass
class Cluster:
    """Authorities and certificate, as the plan wants them."""

    authorities: list[AuthorityFacts] = field(default_factory=list)
    leaf: LeafFacts | None = None
    made: int = 0

    def look(self, now: datetime) -> None:
        due = plan_authorities(self.authorities, now)
        if due is not None:
            kept = [each for each in self.authorities if each.fingerprint in due.keep]
            self.made += 1
            new = authority(f"ca-{self.made}", timedelta(0), now=now)
            self.authorities = [*kept, new]
        assert plan_authorities(self.authorities, now) is None, "once made, it is enough"
        issue = plan_certificate(self.leaf, self.authorities, NAMES, now)
        if issue is not None:
            by = next(each for each in self.authorities if each.fingerprint == issue.by)
            end = min(now + CERTIFICATE_LIFE, by.not_after)
            self.leaf = LeafFacts(by.fingerprint, now - BACKDATED, end, NAMES)
        assert plan_certificate(self.leaf, self.authorities, NAMES, now) is None


def test_for_twenty_years_a_run_of_a_year_always_trusts_the_certificate() -> None:
    cluster = Cluster()
    started: dict[datetime, str] = {}
    issuers = set()
    for day in range(20 * 365):
        now = NOW + day * DAY
        cluster.look(now)
        found = cluster.leaf
        assert found is not None
        assert found.not_before <= now < found.not_after - timedelta(days=9)
        issuers.add(found.issuer)
        started[now] = bundle(cluster.authorities, now)
        assert started[now].count("<") <= 2
        for age in (0, 30, 180, 365):
            trusted = started.get(now - age * DAY)
            assert trusted is None or f"<{found.issuer}>" in trusted
    assert len(issuers) >= 6, "authorities did follow one another"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(min_value=-4000, max_value=4000), min_size=1, max_size=12))
def test_whatever_the_clock_does_a_look_ends_with_what_is_valid_then(jumps: list[int]) -> None:
    cluster = Cluster()
    now = NOW
    for jump in jumps:
        now = NOW + jump * DAY
        cluster.look(now)
        found = cluster.leaf
        assert found is not None
        assert found.not_before <= now < renewal_time(found)
        assert f"<{found.issuer}>" in bundle(cluster.authorities, now)
        assert len(cluster.authorities) <= MOST_AUTHORITIES


def test_an_operator_that_was_away_for_longer_than_everything_lives_begins_anew() -> None:
    cluster = Cluster()
    cluster.look(NOW)
    later = NOW + AUTHORITY_LIFE + 100 * DAY
    cluster.look(later)
    assert bundle(cluster.authorities, later) == "<ca-2>"
    assert cluster.leaf is not None
    assert cluster.leaf.issuer == "ca-2"


def test_an_operator_that_was_away_until_just_before_the_end_goes_on_with_the_old_one() -> None:
    """Runs that started before it went away know the old authority alone."""
    cluster = Cluster()
    cluster.look(NOW)
    cluster.look(NOW + AUTHORITY_LIFE - LAST_SIGNATURE - 5 * DAY)
    assert cluster.leaf is not None
    assert cluster.leaf.issuer == "ca-1"
    assert cluster.leaf.not_after == cluster.authorities[0].not_after, "it can't outlive it"


# Who gets to know ------------------------------------------------------------------


def test_it_is_published_where_it_lacks_or_differs_and_withdrawn_where_the_label_went() -> None:
    published = {"own": "now", "team-a": "old", "team-b": "now", "left": "now", "foreign": "x"}
    due = plan_access("now", published, {"own", "team-a", "team-b", "left"}, {
        "own", "team-a", "team-b", "new",
    })  # fmt: skip
    assert due.publish == ("new", "team-a")
    assert due.withdraw == ("left",), "what somebody else made is left alone"


def test_a_foreign_object_in_a_namespace_with_access_is_made_right() -> None:
    assert plan_access("now", {"team-a": "else"}, (), {"team-a"}).publish == ("team-a",)
