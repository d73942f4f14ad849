"""Which pod a bearer token speaks for.

The API server reviews each token; its answer is kept for seconds.  What is known good is looked at
again before it gets old, so that its callers rarely wait, and is never held up by what is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.cluster.kube_api import ApiRefused, ApiUnavailable, KubeApi
from zeus_agent.cluster.lanes import Lanes
from zeus_agent.cluster.live_pods import LivePod, LivePods
from zeus_agent.cluster.review import (
    MAX_TOKEN_BYTES,
    Claims,
    Reason,
    Unauthenticated,
    account_of,
    judge,
    pod_gone,
    read_claims,
    require_here,
)
from zeus_runtime.protocol import AGENT_AUDIENCE

logger = logging.getLogger("zeus_agent.cluster.tokens")

__all__ = ["Reason", "ReviewUnavailable", "TokenAuthenticator", "Unauthenticated"]

FRESH_SECONDS = 10.0
REFRESH_SECONDS = 6.0
"""A good review is asked for again, in the background, by the first use after this age."""
REFUSED_SECONDS = 2.0
STALE_SECONDS = 300.0
"""So long a good review keeps a session alive while nobody can review."""
REVIEW_TIMEOUT_SECONDS = 1.5
"""Shorter than clients wait for the agent (2 s)."""
PROBE_SECONDS = 1.0
"""So often the API server is tried while it is known to be away."""
MAX_GOOD = 1024
MAX_REFUSED = 1024
MAX_UNKNOWN_REVIEWS = 16
_OPERATOR_LANE = "operator"

Caller = PodCaller | ServiceCaller
V = TypeVar("V")


class ReviewUnavailable(Exception):  # noqa: N818 -- a fact about who is asked
    """Nobody can say now whose the token is; the same request may work later."""

    def __init__(self, message: str, retry_after_seconds: float = PROBE_SECONDS) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class _Good:
    """A review that was good.  Times are of the monotonic clock but for the token's own."""

    caller: Caller
    reviewed_at_seconds: float
    ends_at_seconds: float
    expires_wall_seconds: float


@dataclass(frozen=True, slots=True)
class _Refused:
    until_seconds: float
    reason: Reason
    message: str


class TokenAuthenticator:
    """Turns tokens into callers.

    Args:
        api: reviews.
        pods: the pods of this node.
        node_name: of this node; tokens of pods elsewhere are refused.
        operator: the service account that may read reports.
        audience: tokens must be meant for it.
        clock: monotonic seconds.
        wall_clock: seconds since 1970, for the tokens' own expiry.
    """

    def __init__(
        self,
        api: KubeApi,
        pods: LivePods,
        node_name: str,
        *,
        operator: ServiceCaller | None = None,
        audience: str = AGENT_AUDIENCE,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._pods = pods
        self._node = node_name
        self._operator = operator
        self._audience = audience
        self._clock = clock
        self._wall_clock = wall_clock
        self._lanes = Lanes()
        self._good: OrderedDict[bytes, _Good] = OrderedDict()
        self._refused: OrderedDict[bytes, _Refused] = OrderedDict()
        self._reviews: dict[bytes, asyncio.Task[Caller]] = {}
        self._unknown_reviews = 0
        self._away_until_seconds: float | None = None  # None: the API server answers
        pods.when_gone(self._forget_pod)

    async def close(self) -> None:
        """Give up the reviews that are going on."""
        running = list(self._reviews.values())
        for review in running:
            review.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def authenticate(
        self, token: str, *, peer: str = "", for_renewal: bool = False
    ) -> Caller:
        """Return who calls.

        Args:
            token: as it was shown.
            peer: the address that it comes from; whoever floods gets in nobody's way elsewhere.
            for_renewal: the request opens no session and sets no limit, so that a review up to
                `STALE_SECONDS` old is enough while the API server is away.

        Raises:
            Unauthenticated: the token proves nothing here.
            ReviewUnavailable: nobody can tell now.
        """
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise Unauthenticated(Reason.MALFORMED, "the token is malformed: no JSON Web Token")
        key = hashlib.sha256(token.encode()).digest()
        good = self._good.get(key)
        if good is not None:
            return await self._known(key, token, good, for_renewal)
        return await self._unknown(key, token, peer)

    # ---- a token that was good -------------------------------------------------

    async def _known(self, key: bytes, token: str, good: _Good, for_renewal: bool) -> Caller:
        now = self._clock()
        if now >= good.ends_at_seconds:
            del self._good[key]
            raise Unauthenticated(Reason.EXPIRED, "the token has expired; read its file again")
        age = now - good.reviewed_at_seconds
        lives = self._lives(good.caller)
        # The wall clock may have been set: then the API server, which has its own, decides.
        is_expired_here = self._wall_clock() >= good.expires_wall_seconds
        if age < FRESH_SECONDS and lives and not is_expired_here:
            if age >= REFRESH_SECONDS:
                self._start_review(key, token, good)
            return good.caller
        may_be_stale = for_renewal and lives and not is_expired_here and age <= STALE_SECONDS
        if may_be_stale and self._away_until_seconds is not None:
            self._start_review(key, token, good)  # in the background: the caller need not wait
            return good.caller
        try:
            return await self._review(key, token, good)
        except ReviewUnavailable:
            if may_be_stale and self._lives(good.caller):
                return good.caller
            raise

    def _lives(self, caller: Caller) -> bool:
        return isinstance(caller, ServiceCaller) or self._pods.get(caller.pod_uid) is not None

    def _forget_pod(self, pod: LivePod) -> None:
        theirs = [
            key
            for key, good in self._good.items()
            if isinstance(good.caller, PodCaller) and good.caller.pod_uid == pod.uid
        ]
        for key in theirs:
            del self._good[key]

    # ---- a token that was never seen -------------------------------------------

    async def _unknown(self, key: bytes, token: str, peer: str) -> Caller:
        refused = self._refused.get(key)
        if refused is not None:
            if self._clock() < refused.until_seconds:
                raise Unauthenticated(refused.reason, refused.message)
            del self._refused[key]
        claims = read_claims(token, self._audience, self._wall_clock())
        require_here(claims, self._node, self._operator)
        if self._pods.is_gone(claims.pod_uid):
            raise pod_gone()
        if key not in self._reviews:
            if self._is_away():
                raise _away()
            self._admit(self._claimed(claims), peer)
        return await self._review(key, token, claims)

    def _claimed(self, claims: Claims) -> str:
        if self._operator is not None and claims.account == account_of(self._operator):
            return _OPERATOR_LANE
        return claims.pod_uid if self._pods.get(claims.pod_uid) is not None else ""

    def _admit(self, claimed: str, peer: str) -> None:
        if self._unknown_reviews >= MAX_UNKNOWN_REVIEWS:
            raise ReviewUnavailable("too many unknown tokens are being reviewed; try again")
        wait = self._lanes.wait_seconds(claimed, peer, self._clock())
        if wait > 0.0:
            raise ReviewUnavailable("too many unknown tokens in a short time; try again", wait)

    # ---- reviews: one at a time for each token ----------------------------------

    async def _review(self, key: bytes, token: str, known: _Good | Claims) -> Caller:
        review = self._start_review(key, token, known)
        if review is None:
            raise _away()
        # Others wait for the same review: a caller that hangs up must not end it.
        caller = await asyncio.shield(review)
        if not self._lives(caller):  # its end was told between the review and now
            raise pod_gone()
        return caller

    def _is_away(self) -> bool:
        away = self._away_until_seconds
        return away is not None and self._clock() < away

    def _start_review(
        self, key: bytes, token: str, known: _Good | Claims
    ) -> asyncio.Task[Caller] | None:
        """Return the review of the token, or None where the API server was just found away."""
        review = self._reviews.get(key)
        if review is not None:
            return review
        if self._is_away():
            return None
        review = asyncio.create_task(self._ask(key, token, known))
        self._reviews[key] = review
        is_unknown = isinstance(known, Claims)
        self._unknown_reviews += is_unknown

        def done(finished: asyncio.Task[Caller]) -> None:
            del self._reviews[key]
            self._unknown_reviews -= is_unknown
            if not finished.cancelled():
                finished.exception()  # seen, also where nobody waits for it

        review.add_done_callback(done)
        return review

    async def _ask(self, key: bytes, token: str, known: _Good | Claims) -> Caller:
        """Review the token and keep the outcome."""
        expires = (
            known.expires_at_seconds if isinstance(known, Claims) else known.expires_wall_seconds
        )
        deadline = asyncio.get_running_loop().time() + REVIEW_TIMEOUT_SECONDS
        try:
            review = await self._api.review_token(token, self._audience, REVIEW_TIMEOUT_SECONDS)
            self._away_until_seconds = None
            if review.error:
                logger.debug("token not reviewed well: %s", review.error.replace(token, "(token)"))
            caller = judge(review, self._audience, self._node, self._operator)
            if isinstance(caller, PodCaller) and not await self._confirmed(caller, deadline):
                raise pod_gone()
        except Unauthenticated as error:
            self._good.pop(key, None)
            until = self._clock() + REFUSED_SECONDS
            _keep(self._refused, key, _Refused(until, error.reason, str(error)), MAX_REFUSED)
            raise
        except (ApiUnavailable, ApiRefused) as error:
            self._note_failure(error, is_known=isinstance(known, _Good))
            raise ReviewUnavailable(f"the token can't be checked now: {error}") from error
        now = self._clock()
        ends = (
            now + expires - self._wall_clock()
            if isinstance(known, Claims)
            else known.ends_at_seconds
        )
        good = _Good(caller, now, ends, expires)
        _keep(self._good, key, good, MAX_GOOD)
        return caller

    async def _confirmed(self, caller: PodCaller, deadline: float) -> bool:
        """Return whether the pod lives here.

        Args:
            caller: what the review said.
            deadline: of the loop's time; one for the review and this, as callers wait for both.

        Raises:
            ApiUnavailable, ApiRefused: there is no telling.
        """
        try:
            async with asyncio.timeout_at(deadline):
                pod = await self._pods.confirm(
                    caller.namespace, caller.pod, caller.pod_uid, caller.service_account
                )
        except TimeoutError:
            raise ApiUnavailable(
                f"no answer in time whether pod {caller.namespace}/{caller.pod} lives"
            ) from None
        return pod is not None

    def _note_failure(self, error: ApiUnavailable | ApiRefused, *, is_known: bool) -> None:
        """Remember that the API server is away.

        One that is only slow with a stranger's token (a webhook may check those) is not away.
        """
        if is_known or (isinstance(error, ApiUnavailable) and error.is_unreachable):
            self._away_until_seconds = self._clock() + PROBE_SECONDS


def _away() -> ReviewUnavailable:
    return ReviewUnavailable("the API server, which checks tokens, does not answer")


def _keep(kept: OrderedDict[bytes, V], key: bytes, value: V, most: int) -> None:
    """Keep a value as the newest; the oldest goes where there are too many."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
