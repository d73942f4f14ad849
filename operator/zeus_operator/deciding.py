"""What one attempt is to do: batch size, threshold, seed, name.  Pure.

A decision is a function of the stored history alone, so that it can be made
again after a crash, explained and replayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from zeus_operator.actions import DecideAttempt
from zeus_operator.optimizer.types import Choice, Observation, Policy, Situation
from zeus_operator.plan_spec import JobPlanSpec, Mode, ThroughputSweep
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    DecisionRecord,
    JobFacts,
    JobRecord,
    ProfileRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.sweeps import as_label, is_safe, sizes_for
from zeus_runtime.protocol import Decision

DEFAULT_POLICY = "default"
"""`DecisionRecord.policy` where no policy decided: control runs, Observe and Recommend."""

CHILD_NAME_MAX = 52
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def decide(
    facts: JobFacts, recurrence: RecurrenceRecord, spec: JobPlanSpec, policy: Policy
) -> DecideAttempt:
    """Return the decision of the next attempt of `recurrence`."""
    number = len(recurrence.attempts) + 1
    situation = situation_of(facts, recurrence, spec)
    seed = seed_of(facts.job.seed, recurrence.kind, recurrence.ordinal, number)
    choice = _choice(facts.observations, recurrence, spec, policy, situation, seed)
    may_sweep = spec.throughput_sweep is ThroughputSweep.AUTO
    may_sweep = may_sweep and is_safe(facts, situation.gpu_model)
    decision = DecisionRecord(
        batch_size=choice.batch_size,
        cost_threshold_joules=choice.cost_threshold_joules,
        learning_rate=spec.learning_rate_at(choice.batch_size),
        seed=seed,
        policy=choice.policy or policy.name,
        sentence=choice.sentence,
        candidates=choice.candidates,
        stop_rule=choice.stop_rule,
        sweep=choice.sweep if may_sweep else (),
        optimize_power=not runs_default(recurrence.kind, spec),
        observations_seen=len(facts.observations),
        last_observation_id=facts.observations[-1].attempt_id if facts.observations else None,
        problem=spec.problem,
        situation=situation,
        target=spec.target,
        eta=spec.eta,
        metric_mode=spec.metric_mode.value,
    )
    name = child_name(facts.job, recurrence.kind, recurrence.scheduled_time, number)
    return DecideAttempt(recurrence.id, number, name, decision)


def runs_default(kind: RecurrenceKind, spec: JobPlanSpec) -> bool:
    """Whether the recurrence runs the default configuration, whatever was learned."""
    return kind is RecurrenceKind.CONTROL or spec.mode is not Mode.OPTIMIZE


def situation_of(facts: JobFacts, recurrence: RecurrenceRecord, spec: JobPlanSpec) -> Situation:
    """Return the situation of the next attempt of `recurrence`, as a policy sees it."""
    in_flight = tuple(
        attempt.decision.batch_size
        for other in facts.recurrences
        if other.id != recurrence.id
        and other.state is RecurrenceState.OPEN
        and other.kind is RecurrenceKind.LEARNED
        for attempt in other.attempts
        if attempt.state is not AttemptState.ENDED
    )
    gpu_model, gpu_count = _expected_gpu(facts, spec)
    return Situation(
        recurrence=max(recurrence.ordinal, 1),
        failed=tuple(attempt.decision.batch_size for attempt in recurrence.attempts),
        in_flight=in_flight,
        gpu_model=gpu_model,
        gpu_count=gpu_count,
    )


def _expected_gpu(facts: JobFacts, spec: JobPlanSpec) -> tuple[str, int]:
    """Return the model and number of GPUs that the next run is expected to get.

    Where the last run was placed, the next one most likely is.  A product that the job asks
    for is the label of a node; if a run was on such a GPU, the name that the run reported
    counts, because that is what observations are kept under.
    """
    seen = [(each.gpu_model, each.gpu_count) for each in facts.profiles]
    seen += [(each.gpu_model, each.gpu_count) for each in facts.observations]
    if not spec.gpu_product:
        model, count = seen[-1] if seen else ("", 1)
        return model, max(count, 1)
    wanted = as_label(spec.gpu_product)
    for model, count in reversed(seen):
        if as_label(model) == wanted:
            return model, max(count, 1)
    return spec.gpu_product, max(seen[-1][1], 1) if seen else 1


def _choice(
    observations: tuple[Observation, ...],
    recurrence: RecurrenceRecord,
    spec: JobPlanSpec,
    policy: Policy,
    situation: Situation,
    seed: int,
) -> Choice:
    default = spec.default_batch_size
    if recurrence.kind is RecurrenceKind.CONTROL:
        return Choice(
            default,
            None,
            f"Control run: the default batch size {default} at the power limit found, to measure "
            "the savings against.",
            policy=DEFAULT_POLICY,
        )
    if spec.mode is Mode.OBSERVE:
        return Choice(
            default,
            None,
            f"{_mode_words(spec)}: the default batch size {default}, measured.",
            policy=DEFAULT_POLICY,
        )
    choice = policy.choose(spec.problem, observations, situation, seed)
    if spec.mode is Mode.RECOMMEND:
        return Choice(
            default,
            None,
            f"{_mode_words(spec)}: the default batch size {default} runs. The policy would take "
            f"{choice.batch_size}: {choice.sentence}",
            choice.candidates,
            DEFAULT_POLICY,
        )
    if situation.attempt >= spec.max_attempts:
        # The policies do this by themselves; that the user gets a model must not hang on it.
        return replace(
            choice, batch_size=default, cost_threshold_joules=None, stop_rule=None, sweep=()
        )
    return choice


def _mode_words(spec: JobPlanSpec) -> str:
    if spec.mode_asked is None:
        return f"The mode is {spec.mode}"
    return (
        f"The mode is {spec.mode}, the most that the operator allows in this namespace (spec.mode "
        f"is {spec.mode_asked})"
    )


def replay(
    decision: DecisionRecord, policy: Policy, observations: tuple[Observation, ...]
) -> Choice | None:
    """Return what `policy` says to what the decision's policy saw.

    With the policy that decided it is the same choice again.

    Args:
        observations: of the job under the terms of the decision (`relearning.StoredHistory`),
            in the order of the store; later ones are cut off.

    Returns:
        None where no policy decided (control runs, Observe, Recommend), or the
        store lacks what it saw.
    """
    if decision.policy == DEFAULT_POLICY or decision.problem is None or decision.situation is None:
        return None
    seen = observations[: decision.observations_seen]
    return policy.choose(decision.problem, seen, decision.situation, decision.seed)


def decision_for(
    attempt: AttemptRecord, spec: JobPlanSpec, profiles: Iterable[ProfileRecord]
) -> Decision:
    """Return what the run of `attempt` is told, with a power profile if one is known.

    The newest profile of the same batch size goes along with what it was
    measured on; the runtime profiles anew if it finds another GPU or driver.
    """
    decision = attempt.decision
    terms = spec.as_decided(decision)
    known = [profile for profile in profiles if profile.batch_size == decision.batch_size]
    newest = max(known, key=lambda profile: profile.measured_at, default=None)
    use_profile = newest is not None and decision.optimize_power
    return Decision(
        batch_size=decision.batch_size,
        target=terms.target,
        metric_mode=terms.metric_mode.value,
        max_epochs=terms.max_epochs,
        eta=terms.eta,
        cost_threshold_joules=decision.cost_threshold_joules,
        learning_rate=decision.learning_rate,
        seed=decision.seed,
        power_min_percent=terms.power_min_percent,
        power_max_percent=terms.power_max_percent,
        optimize_power=decision.optimize_power,
        power_profile=newest.points if newest is not None and use_profile else (),
        profile_gpu_model=newest.gpu_model if newest is not None and use_profile else "",
        profile_driver=newest.gpu_driver if newest is not None and use_profile else "",
        profile_gpu_count=newest.gpu_count if newest is not None and use_profile else 1,
        stop_rule=decision.stop_rule,
        sweep_batch_sizes=sizes_for(attempt),
    )


def seed_of(job_seed: int, kind: RecurrenceKind, ordinal: int, attempt: int) -> int:
    """Return a seed in [0, 2**31), a stable function of its arguments.

    `hash()` differs between processes; and 31 bits fit every generator.
    """
    text = f"{job_seed}/{kind.value}/{ordinal}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def child_name(job: JobRecord, kind: RecurrenceKind, scheduled_time: datetime, attempt: int) -> str:
    """Return the one name of an attempt's child: a DNS label of at most 52 characters.

    A function of the job's incarnation, the scheduled time (milliseconds, base
    36), the kind and the attempt, so that a repeated start finds the first one.
    """
    milliseconds = round(scheduled_time.timestamp() * 1000)
    mark = "c" if kind is RecurrenceKind.CONTROL else "a"
    uid8 = job.uid.replace("-", "")[:8]
    suffix = f"-{uid8}-{_base36(milliseconds)}-{mark}{attempt}"
    return job.name[: CHILD_NAME_MAX - len(suffix)].rstrip("-") + suffix


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"
