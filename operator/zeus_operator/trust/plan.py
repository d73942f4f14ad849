"""What is due for the trust in agents, from what there is and the time.  Pure.

An authority is made long before it signs: whoever starts meanwhile trusts both, so that the change
from one to the next is seen by nobody.  Nothing is destroyed because of a clock: what has ended is
kept for a while and published no more, so that a clock which jumped and came back finds all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

AUTHORITY_LIFE = timedelta(days=3 * 365)
SUCCESSOR_AFTER = AUTHORITY_LIFE / 2
"""At this age an authority gets a successor, which is published and does not sign yet."""
LAST_SIGNATURE = timedelta(days=30)
"""So long before its end an authority signs no more, and its successor does."""
CERTIFICATE_LIFE = timedelta(days=90)
RENEWED_AFTER = 2 / 3
"""Share of its life after which the certificate is renewed."""
MOST_AUTHORITIES = 8
"""Kept at most: clocks that jump leave some behind."""
ENDED_AUTHORITIES = 2
"""Of these, so many that have ended."""


@dataclass(frozen=True)
class AuthorityFacts:
    """An authority that is kept.

    Args:
        can_sign: its key is there.
        pem: its certificate as text.
    """

    fingerprint: str
    not_before: datetime
    not_after: datetime
    can_sign: bool
    pem: str

    def is_valid(self, now: datetime) -> bool:
        """Whether clients accept it."""
        return self.not_before <= now < self.not_after


@dataclass(frozen=True)
class LeafFacts:
    """The agents' certificate.

    Args:
        issuer: fingerprint of the authority that has signed it; "": none that is kept.
        names: what it is for.
    """

    issuer: str
    not_before: datetime
    not_after: datetime
    names: frozenset[str]


@dataclass(frozen=True)
class MakeAuthority:
    """Make an authority and keep it beside `keep`.

    Args:
        keep: fingerprints.
        reason: for the log.
    """

    keep: frozenset[str]
    reason: str


@dataclass(frozen=True)
class Issue:
    """Issue the agents' certificate anew.

    Args:
        by: fingerprint of the authority that signs.
    """

    by: str
    reason: str


@dataclass(frozen=True)
class Access:
    """Who is to know the authorities.

    Args:
        publish: namespaces where what is published differs, or nothing is.
        withdraw: namespaces that have it and are to lose it.
    """

    publish: tuple[str, ...]
    withdraw: tuple[str, ...]


def plan_authorities(authorities: Sequence[AuthorityFacts], now: datetime) -> MakeAuthority | None:
    """Return whether an authority has to be made; None: those that are kept will do."""
    signing = [each for each in authorities if each.can_sign and each.is_valid(now)]
    newest = max(signing, key=lambda each: each.not_after, default=None)
    if newest is None:
        reason = "there is none that can sign" if authorities else "there is none"
    elif newest.not_after - now < AUTHORITY_LIFE - SUCCESSOR_AFTER:
        reason = f"the newest ends at {newest.not_after:%Y-%m-%d}"
    else:
        return None
    return MakeAuthority(frozenset(_kept(authorities, now)), reason)


def _kept(authorities: Sequence[AuthorityFacts], now: datetime) -> list[str]:
    """Return the fingerprints of the authorities to keep, one place left for a new one.

    First the one that signs and those that are valid: what clocks that jumped have left behind must
    not push them out.
    """
    newest_first = sorted(authorities, key=lambda each: each.not_after, reverse=True)
    valid = [each for each in newest_first if each.is_valid(now)]
    by = signer(authorities, now)
    valid.sort(key=lambda each: (each != by, not each.can_sign))
    early = [each for each in newest_first if now < each.not_before]
    ended = [each for each in newest_first if each.not_after <= now]
    kept = (valid + early + ended[:ENDED_AUTHORITIES])[: MOST_AUTHORITIES - 1]
    return [each.fingerprint for each in kept]


def bundle(authorities: Sequence[AuthorityFacts], now: datetime) -> str:
    """Return the certificates to trust as one text, the same for the same authorities.

    One that is not valid yet is among them: a clock that is ahead elsewhere may need it.
    """
    live = [each for each in authorities if now < each.not_after]
    live.sort(key=lambda each: (each.not_before, each.fingerprint))
    return "".join(each.pem for each in live)


def signer(authorities: Sequence[AuthorityFacts], now: datetime) -> AuthorityFacts | None:
    """Return which authority signs: the oldest that still may, so that its successor is known."""
    able = [each for each in authorities if each.can_sign and each.is_valid(now)]
    early = [each for each in able if each.not_after - now >= LAST_SIGNATURE]
    return min(early, key=lambda each: each.not_after, default=None) or max(
        able, key=lambda each: each.not_after, default=None
    )


def plan_certificate(
    leaf: LeafFacts | None,
    authorities: Sequence[AuthorityFacts],
    names: frozenset[str],
    now: datetime,
) -> Issue | None:
    """Return whether the agents' certificate has to be issued; None: the present one will do.

    Args:
        leaf: None: there is none, or it is not whole.
        names: what it has to be for.
    """
    by = signer(authorities, now)
    if by is None:
        return None
    reason = _why_issue(leaf, authorities, names, now)
    return Issue(by.fingerprint, reason) if reason else None


def _why_issue(
    leaf: LeafFacts | None,
    authorities: Sequence[AuthorityFacts],
    names: frozenset[str],
    now: datetime,
) -> str:
    if leaf is None:
        return "there is none that is whole"
    trusted = {each.fingerprint for each in authorities if each.is_valid(now)}
    if leaf.issuer not in trusted:
        return "nobody trusts who has signed it"
    if leaf.names != names:
        return "it is for other names"
    if now < leaf.not_before:
        return "it is not valid yet"
    if now >= renewal_time(leaf):
        return f"it ends at {leaf.not_after:%Y-%m-%d}"
    return ""


def renewal_time(leaf: LeafFacts) -> datetime:
    """Return when a certificate is due for renewal."""
    return leaf.not_before + (leaf.not_after - leaf.not_before) * RENEWED_AFTER


def in_turn(namespaces: Sequence[str], last: str) -> list[str]:
    """Return `namespaces` (sorted) from the one after `last` on, then the others."""
    return [each for each in namespaces if each > last] + [
        each for each in namespaces if each <= last
    ]


def plan_access(
    text: str, published: Mapping[str, str], ours: Collection[str], access: Collection[str]
) -> Access:
    """Return where the authorities have to be published or withdrawn.

    Args:
        text: what is to be published.
        published: what is published, by namespace.
        ours: the namespaces of these where it was published by us.
        access: the namespaces that are to have it.
    """
    return Access(
        publish=tuple(sorted(each for each in access if published.get(each) != text)),
        withdraw=tuple(sorted(set(ours) - set(access))),
    )
