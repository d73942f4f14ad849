"""Profiles power limits while training goes on, then holds the best one.

Glue between pure parts and the two background threads: `power_profile` says which
limit is next, `trial` when its measurement begins and ends, the agent's thread
applies it, the meter's thread measures.  Nothing here blocks; between events the
training step compares one counter with `wake_at`.
"""

from __future__ import annotations

import enum
import time
from typing import Callable, Optional, Tuple

from zeus_runtime.agent_background import AgentStatus
from zeus_runtime.agent_wishes import FINAL_REFUSALS
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.ledger import Ledger, Moment
from zeus_runtime.notices import Notices
from zeus_runtime.power_parts import EnergySource, LimitHolder, PowerWishes, Steps
from zeus_runtime.power_profile import SAME_WATTS, PowerProfile, candidate_limits
from zeus_runtime.protocol import ErrorCode, Lease, PowerProfilePoint
from zeus_runtime.trial import NEVER, WARM_UP_STEPS, Span, Trial, TrialRules

LONGEST_CHECK_STEPS = 1024
VAIN_TRIALS = 5


class _State(enum.Enum):
    WARM_UP = "warm-up"
    ASKING = "asking"  # a candidate was asked for and is not applied yet
    TRIAL = "trial"
    RESOLVING = "resolving"  # the trial is over, its energy is known a tick later
    HOLDING = "holding"  # the best limit was asked for
    OFF = "off"


class PowerControl:
    """The power limit of one GPU in one run.

    Args:
        facts: the GPU; its limits must be known.
        agent: applies limits.
    """

    def __init__(
        self,
        facts: GpuFacts,
        wishes: PowerWishes,
        agent: LimitHolder,
        meter: EnergySource,
        ledger: Ledger,
        notices: Notices,
        steps: Steps,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert facts.min_limit_watts is not None
        assert facts.max_limit_watts is not None
        self._uuid = facts.uuid
        self._agent, self._meter, self._ledger = agent, meter, ledger
        self._notices, self._clock = notices, clock
        self._steps = steps
        candidates = candidate_limits(
            facts.min_limit_watts,
            facts.max_limit_watts,
            facts.default_limit_watts or facts.max_limit_watts,
            wishes.min_percent,
            wishes.max_percent,
        )
        self._profile = PowerProfile(
            candidates, wishes.eta, facts.max_power_watts, known=wishes.known
        )
        self._state = _State.WARM_UP
        self._trial: Optional[Trial] = None
        self._rules = TrialRules()
        self._marks: Tuple[Optional[Moment], Optional[Moment]] = (None, None)
        self._span: Optional[Span] = None
        self._lease: Optional[Lease] = None
        self._found_watts: Optional[float] = None
        self._losses = 0
        self._in_epoch = False
        self._epoch_start_steps = 0
        self._whole_cycles = any(point.whole_cycles for point in self._profile.points)
        self._patience = 1
        self._vain = 0
        self.wake_at = WARM_UP_STEPS
        if self._profile.candidate is None:
            self._hold()

    @property
    def points(self) -> Tuple[PowerProfilePoint, ...]:
        """The points measured or used."""
        return self._profile.points

    @property
    def profiling(self) -> bool:
        """Whether it is still open which limit to hold."""
        return not self.complete and not self._profile.settled

    @property
    def complete(self) -> bool:
        """Whether no limit is looked at any more, be it only to tell apart what costs the same."""
        return self._state in (_State.HOLDING, _State.OFF)

    @property
    def held_watts(self) -> Optional[float]:
        """The limit held for the rest of the run; None: none (yet, or not now).

        Limits that cost nearly the same may still be looked at in between.
        """
        best, lease = self._profile.best, self._lease
        if best is None or lease is None or self._state is _State.OFF or self.profiling:
            return None
        if self._state is _State.HOLDING:
            return lease.applied_watts if self._holds_best else None
        return best.power_limit_watts

    @property
    def _holds_best(self) -> bool:
        best = self._profile.best
        return (
            best is not None
            and self._lease is not None
            and self._lease.requested_watts == best.power_limit_watts
        )

    @property
    def best(self) -> Optional[PowerProfilePoint]:
        """The best point so far."""
        return self._profile.best

    @property
    def found_point(self) -> Optional[PowerProfilePoint]:
        """The point at the limit that was there before ours; None: it is none of the profile."""
        found = self._found_watts
        for point in self.points:
            if found is not None and abs(point.power_limit_watts - found) <= SAME_WATTS:
                return point
        return None

    def check_lease(self, steps: int) -> None:
        """See whether the limit changed; call it before a segment of the ledger is closed."""
        self._follow_lease(self._agent.status, self._clock(), steps)

    def give_up(self) -> None:
        """Nothing is known of the GPUs any more: go on at the limit that was there."""
        self._trial = None
        self.wake_at = NEVER
        self._end_profile()

    def on_step(self, steps: int) -> None:
        """A step ended and `steps >= wake_at`."""
        if self._state is _State.TRIAL and self._steps.synchronize is not None:
            self._steps.synchronize()
        self._advance(steps, lambda trial, now: trial.on_step(now, steps))

    def on_epoch_begin(self, now_seconds: float, steps: int, done_before: int = 0) -> None:
        """An epoch begins, or goes on after steps of it that an earlier execution has done."""
        self._in_epoch, self._epoch_start_steps = True, steps - done_before
        self._advance(steps, lambda trial, now: trial.on_epoch_begin(now, steps), now_seconds)

    def on_epoch_end(self, now_seconds: float, steps: int) -> None:
        """The training part of an epoch ended."""
        self._in_epoch = False
        self._advance(steps, lambda trial, now: trial.on_epoch_end(now, steps), now_seconds)

    def on_pause(self, now_seconds: float, steps: int) -> None:
        """Within an epoch something else follows: evaluation, a checkpoint."""
        self._in_epoch = False
        self._advance(steps, lambda trial, now: trial.on_epoch_end(now, steps), now_seconds)

    def on_go_on(self, now_seconds: float, steps: int) -> None:
        """The steps of the epoch go on."""
        self._in_epoch = True
        self._advance(steps, lambda trial, now: trial.go_on(now, steps), now_seconds)

    # ---- the states -------------------------------------------------------------

    def _advance(
        self, steps: int, tell: Callable[[Trial, float], None], now: Optional[float] = None
    ) -> None:
        now = self._clock() if now is None else now
        status = self._agent.status
        self._follow_lease(status, now, steps)
        if self._state is _State.WARM_UP and steps >= WARM_UP_STEPS:
            self._ask_next()
        if self._state is _State.TRIAL and self._trial is not None:
            self._run_trial(self._trial, tell, now)
        if self._state is _State.RESOLVING:
            self._resolve()
        if self._state is _State.ASKING:
            self._check_asked(status, now, steps)
        self._set_wake(steps)

    def _set_wake(self, steps: int) -> None:
        if self._state is _State.WARM_UP:
            self.wake_at = WARM_UP_STEPS
        elif self._state is _State.TRIAL and self._trial is not None:
            self.wake_at = self._trial.wake_at
        elif self._state is _State.OFF or (self._state is _State.HOLDING and self._holds_best):
            self.wake_at = NEVER  # what happens to a lease is seen at the next epoch
        else:
            # What is waited for may take milliseconds or never come: look ever more rarely.
            self.wake_at = steps + self._patience
            more = 1 + self._patience // 4
            self._patience = min(self._patience + more, LONGEST_CHECK_STEPS)

    def _follow_lease(self, status: AgentStatus, now: float, steps: int) -> None:
        """Cut a segment where the limit changed; drop a trial that lost its lease."""
        lease = status.leases.get(self._uuid)
        lost = status.losses != self._losses
        self._losses = status.losses
        if lost:
            self._ledger.spoil()
            if self._state in (_State.TRIAL, _State.RESOLVING):
                self._trial, self._state = None, _State.ASKING
        if lease is not None and lease.dry_run:
            lease = None  # nothing was set: the limit is none of ours
            self._notices.warn(
                "dry-run",
                "the policy of this node is on trial: the agent sets no power limit. Training goes "
                "on at the limit that there is",
            )
            if self._state is _State.ASKING:
                self._end_profile()
        before = None if self._lease is None else self._lease.applied_watts
        after = None if lease is None else lease.applied_watts
        self._lease = lease
        if self._found_watts is None and lease is not None:
            self._found_watts = lease.previous_watts
        if after != before or lost:
            self._ledger.change_limit(self._meter.mark(now), steps, after)
        self._explain(status)

    def _explain(self, status: AgentStatus) -> None:
        """Say once why limits can't be set."""
        problem = status.problems.get(self._uuid)
        if problem is not None:
            if problem.code == ErrorCode.FOREIGN_CHANGE.value:
                self._state = _State.OFF
            final = problem.code in _FINAL
            self._notices.warn(
                "power-limit" if final else "power-limit-now",
                f"the agent does not set the power limit{'' if final else ' now'}: "
                f"{problem.message}. Training goes on at the limit that there is"
                f"{'' if final else ', and it is asked again'}",
            )
        elif status.refusal is not None:
            self._notices.warn(
                "agent-refuses",
                f"the agent does not serve this run: {status.refusal.message}. Training goes on "
                "at the power limit that there is",
            )
        elif not status.connected and status.error not in ("", "not connected yet", "closed"):
            self._notices.warn(
                "agent",
                f"no agent: {status.error}. Training goes on at the power limit that there is",
            )

    def _ask_next(self) -> None:
        candidate = self._profile.candidate
        if candidate is None:
            self._hold()
            return
        self._state, self._trial, self._patience = _State.ASKING, None, 1
        self._agent.want_power_limit(self._uuid, candidate)

    def _check_asked(self, status: AgentStatus, now: float, steps: int) -> None:
        candidate = self._profile.candidate
        lease = self._lease
        if candidate is None or lease is None or lease.requested_watts != candidate:
            problem = status.problems.get(self._uuid)
            if problem is not None and problem.code in _FINAL:
                self._end_profile()
            return
        if self._profile.clamped(candidate, lease.applied_watts):
            self._profile.skip()  # clamped to one that was measured already
            self._ask_next()
            return
        period = self._meter.period_seconds
        if period is None:
            if self._meter.problem:
                self._end_profile()  # without a meter nothing can be compared
            return  # the counter's period is still being learned
        self._rules = TrialRules.for_period(period, self._steps.per_epoch, self._steps.partial_last)
        self._trial = Trial(
            self._rules,
            now,
            steps,
            whole_cycles=self._whole_cycles,
            in_epoch=self._in_epoch,
            epoch_start_steps=self._epoch_start_steps,
        )
        self._state = _State.TRIAL

    def _run_trial(self, trial: Trial, tell: Callable[[Trial, float], None], now: float) -> None:
        started = trial.start_seconds
        tell(trial, now)
        if trial.start_seconds is not None and trial.start_seconds != started:
            self._marks = (self._meter.mark(trial.start_seconds), None)
        self._whole_cycles = self._whole_cycles or trial.whole_cycles
        if trial.span is not None:
            self._marks = (self._marks[0], self._meter.mark(trial.span.end_seconds))
            self._span, self._state, self._patience = trial.span, _State.RESOLVING, 1

    def _resolve(self) -> None:
        """Turn a finished trial into a point, once the energy at both ends is known."""
        start, end = self._marks
        assert start is not None
        assert end is not None
        if not (start.settled and end.settled):
            return
        span, lease = self._span, self._lease
        self._span, self._trial = None, None
        if start.energy is None or end.energy is None or span is None or lease is None:
            self._again()
            return
        seconds = span.end_seconds - span.start_seconds
        joules = end.energy.joules - start.energy.joules
        point = PowerProfilePoint(
            lease.applied_watts,
            joules / seconds,
            seconds / span.steps,
            self._rules.certainty(span),
            span.whole_cycles,
        )
        self._profile.measured(point, span.steps)
        self._ask_next()

    def _again(self) -> None:
        """Measured in vain (the GPU did not answer): once more, but not for ever."""
        self._vain += 1
        self._state, self._patience = _State.ASKING, 1
        if self._vain >= VAIN_TRIALS:
            self._notices.warn(
                "profile", "power limits can't be compared: the GPU's energy counter can't be read"
            )
            self._end_profile()

    def _end_profile(self) -> None:
        """Go on at the limit found; a candidate's must not come later, with another agent."""
        self._state = _State.OFF
        self._agent.release(self._uuid)

    def _hold(self) -> None:
        best = self._profile.best
        if best is None:
            self._state = _State.OFF
            return
        self._state, self._patience = _State.HOLDING, 1
        self._agent.want_power_limit(self._uuid, best.power_limit_watts)


_FINAL = FINAL_REFUSALS | {ErrorCode.NOT_FOUND.value}
"""Refusals that end profiling; after others the agent's thread tries again."""
