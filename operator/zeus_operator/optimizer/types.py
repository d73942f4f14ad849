"""What a policy sees and what it answers.  Pure data; costs are joules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from zeus_runtime.protocol import Outcome
from zeus_runtime.stopping import StopRule


@dataclass(frozen=True)
class Problem:
    """What may be chosen for a job.

    Args:
        batch_sizes: the arms, ascending, without duplicates.
        default_batch_size: what the user runs today; one of `batch_sizes`.
        max_epochs: most epochs of one attempt.
        max_attempts: attempts of one recurrence; the last is the default
            batch size without a threshold.
        exploration_share: what exploring may cost over always running the default, as a
            share of that; 0.05 is 5 %.
        bound_every_history: the share holds for what was really spent in each history, not
            in expectation; it saves less.
    """

    batch_sizes: tuple[int, ...]
    default_batch_size: int
    max_epochs: int
    max_attempts: int = 5
    exploration_share: float = 0.05
    bound_every_history: bool = False


@dataclass(frozen=True)
class SweepPoint:
    """What a few steps at another batch size said of an epoch at it.

    Args:
        epoch_cost_joules: at the power limit that was found, before any was set.
    """

    batch_size: int
    epoch_cost_joules: float


@dataclass(frozen=True)
class Observation:
    """One attempt that ended with something to learn, in the order of the store.

    Args:
        attempt_id: unique; a policy counts each id once.
        recurrence: ordinal of its recurrence in the job, from 1.
        attempt: number of the attempt in its recurrence, from 1.
        epochs: complete epochs.
        cost_joules: cost of the whole attempt, profiling included.
        epoch_cost_joules: cost of one epoch at the power limit that was held;
            None if it was not measured.
        milestones: (epoch, metric) each time the best metric improved.
        full_power_epoch_cost_joules: cost of one epoch at the power limit that was found,
            before any was set; None if it was not measured.
        sweep: of other batch sizes, measured within this attempt; what it took is in
            `cost_joules`.
        sweep_cost_joules: that part of `cost_joules`.
        overlapping: another run was under way when this one was decided.
    """

    attempt_id: int
    recurrence: int
    attempt: int
    batch_size: int
    outcome: Outcome
    epochs: int
    cost_joules: float
    epoch_cost_joules: float | None
    gpu_model: str = ""
    gpu_count: int = 1
    milestones: tuple[tuple[int, float], ...] = ()
    full_power_epoch_cost_joules: float | None = None
    sweep: tuple[SweepPoint, ...] = ()
    sweep_cost_joules: float = 0.0
    overlapping: bool = False


@dataclass(frozen=True)
class Situation:
    """The recurrence that needs a decision.

    Args:
        recurrence: its ordinal, from 1.
        failed: batch sizes already tried in this recurrence without success, in order.
        in_flight: batch sizes of the runs of other recurrences that go on now.
        gpu_model, gpu_count: where the run is expected to be placed; "" if unknown.
    """

    recurrence: int
    failed: tuple[int, ...] = ()
    in_flight: tuple[int, ...] = ()
    gpu_model: str = ""
    gpu_count: int = 1

    @property
    def attempt(self) -> int:
        """Number of the attempt to decide, from 1."""
        return len(self.failed) + 1


@dataclass(frozen=True)
class Candidate:
    """How one arm looked when the decision was made.

    Args:
        runs: of this arm that the policy learned from.
        typical_cost_joules: median of what one attempt that runs until it reaches the
            target costs; None: unknown.  Not the mean: that of an arm never tried is
            ruled by its unlikely, huge costs and fits no run at all.
        low_cost_joules, high_cost_joules: it costs less than the one, and more than the
            other, in one case of ten each; None: unknown.
        success_probability: that the target is reached at all.
        net_gain_joules: what policy `structured` ranks by: what later recurrences are
            expected to save, less what the attempt costs over the best known arm; None: it
            was not up for a try.
        extra_cost_joules: that second part alone.
        drawn_cost_joules: what policy `zeus` ranks by, lower is better: a draw from its
            belief about the mean cost.
        note: one of the policy's own words, e.g. "pruned", "in flight".
    """

    batch_size: int
    runs: int
    typical_cost_joules: float | None = None
    low_cost_joules: float | None = None
    high_cost_joules: float | None = None
    success_probability: float | None = None
    net_gain_joules: float | None = None
    extra_cost_joules: float | None = None
    drawn_cost_joules: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """A decision with its reason, as data and as one plain sentence.

    Args:
        cost_threshold_joules: the attempt ends before the epoch that would pass it.
        stop_rule: asked after each epoch, besides the threshold; None: nothing else ends it.
        sweep: batch sizes of which the attempt shall measure a few steps.
    """

    batch_size: int
    cost_threshold_joules: float | None
    sentence: str
    candidates: tuple[Candidate, ...] = ()
    policy: str = ""
    stop_rule: StopRule | None = None
    sweep: tuple[int, ...] = ()


class Policy(Protocol):
    """Chooses a batch size.  A pure function of its arguments.

    The same observations in the same order, situation and seed give the same
    choice on every machine: that is what makes replay and explain possible.
    """

    name: str

    def choose(
        self,
        problem: Problem,
        observations: tuple[Observation, ...],
        situation: Situation,
        seed: int,
    ) -> Choice:
        """Return the batch size and threshold of the next attempt."""
        ...
