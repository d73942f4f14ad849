"""Rules between the fields of a ZeusJob, and what its template may not hold.  Pure.

The models in `types` check each field by itself.  What is here is checked for
every ZeusJob, whether it runs in a cluster or on one machine; what only one
machine needs is in `local_checks`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from zeus_operator.api.expand import references
from zeus_operator.api.template import (
    POD_PATH,
    SPEC_PATH,
    Problem,
    TemplateError,
    TrainingContainer,
    job_spec,
    pod_spec,
    training_container,
)
from zeus_operator.api.types import ZeusJob, ZeusJobSpec
from zeus_operator.schedule import ScheduleError, parse_schedule, parse_time_zone
from zeus_runtime import protocol

_RETRY = "retries are the operator's: set spec.retry.maxAttempts instead"
_ONE_POD = "a run of kind Job is one pod"
_MAX_RESTARTS = re.compile(r"^--max[-_]restarts(?:=(?P<value>.*))?$")


def problems(job: ZeusJob) -> list[Problem]:
    """Return everything that is wrong with `job`, in the order of the file."""
    return [*_schedule(job.spec), *_choices(job.spec), *_power(job.spec), *_template(job.spec)]


def _schedule(spec: ZeusJobSpec) -> Iterator[Problem]:
    if spec.schedule is not None:
        try:
            parse_schedule(spec.schedule)
        except ScheduleError as error:
            yield Problem("spec.schedule", str(error))
        if spec.runs is not None:
            yield Problem("spec.runs", "can't be given together with spec.schedule; keep one")
    try:
        parse_time_zone(spec.time_zone)
    except ScheduleError as error:
        yield Problem("spec.timeZone", str(error))


def _choices(spec: ZeusJobSpec) -> Iterator[Problem]:
    sizes = spec.batch_size
    if sizes.default not in sizes.choices:
        allowed = ", ".join(map(str, sizes.choices))
        yield Problem(
            "spec.batchSize.default",
            f"{sizes.default} is not among spec.batchSize.choices; allowed: {allowed}",
        )
    if sizes.learning_rate is not None and float(sizes.learning_rate.default) <= 0:
        yield Problem("spec.batchSize.learningRate.default", 'must be above "0"')


def _power(spec: ZeusJobSpec) -> Iterator[Problem]:
    if spec.power.min_percent > spec.power.max_percent:
        yield Problem(
            "spec.power.minPercent",
            f"{spec.power.min_percent} is above spec.power.maxPercent; allowed: 1 to "
            f"{spec.power.max_percent}",
        )


def _template(spec: ZeusJobSpec) -> Iterator[Problem]:
    try:
        pod = pod_spec(spec)
        container = training_container(spec)
    except TemplateError as error:
        yield error.problem
        return
    yield from _job(job_spec(spec))
    yield from _pod(pod)
    yield from _restarts(container)
    yield from _environment(spec, container)


def _job(job: Mapping[str, Any]) -> Iterator[Problem]:
    if job.get("backoffLimit") not in (None, 0):
        yield Problem(f"{SPEC_PATH}.backoffLimit", f"must be 0 or left out: {_RETRY}")
    for field in ("parallelism", "completions"):
        if job.get(field) not in (None, 1):
            yield Problem(f"{SPEC_PATH}.{field}", f"must be 1 or left out: {_ONE_POD}")
    if job.get("backoffLimitPerIndex") not in (None, 0):
        yield Problem(f"{SPEC_PATH}.backoffLimitPerIndex", f"must be left out: {_RETRY}")
    for field in ("selector", "manualSelector"):
        if job.get(field):
            yield Problem(
                f"{SPEC_PATH}.{field}", "must be left out: Kubernetes chooses it for each run"
            )


def _pod(pod: Mapping[str, Any]) -> Iterator[Problem]:
    policy = pod.get("restartPolicy")
    if policy not in (None, "Never"):
        yield Problem(
            f"{POD_PATH}.restartPolicy",
            f"must be Never or left out, not {policy}: one attempt is one execution, {_RETRY}",
        )


def _restarts(container: TrainingContainer) -> Iterator[Problem]:
    """Restarts by a launcher such as torchrun would be unseen by the history of the job."""
    for key, words in (("command", container.command), ("args", container.args)):
        for index, word in enumerate(words):
            match = _MAX_RESTARTS.match(word)
            if match is None:
                continue
            following = words[index + 1] if index + 1 < len(words) else ""
            value = match["value"] if match["value"] is not None else following
            if value.strip() != "0":
                yield Problem(
                    f"{container.path}.{key}[{index}]",
                    f"{word}: must be 0 or left out: {_RETRY}",
                )


def _environment(spec: ZeusJobSpec, container: TrainingContainer) -> Iterator[Problem]:
    for index, entry in enumerate(container.env):
        if entry.name.startswith(protocol.ENV_PREFIX):
            use = (
                f'; to have it under another name, give that name the value "$({entry.name})"'
                if entry.name in protocol.INJECTED_ENVIRONMENT
                else ""
            )
            yield Problem(
                f"{container.path}.env[{index}].name",
                f"{entry.name}: names that begin with {protocol.ENV_PREFIX} are the operator's; "
                f"choose another{use}",
            )
        elif entry.value is not None:
            yield from _references(spec, f"{container.path}.env[{index}].value", entry.value)
    for key, words in (("command", container.command), ("args", container.args)):
        for index, word in enumerate(words):
            yield from _references(spec, f"{container.path}.{key}[{index}]", word)


def _references(spec: ZeusJobSpec, path: str, text: str) -> Iterator[Problem]:
    """An unknown `$(ZEUS_X)` would stay literal and reach the script as such."""
    for name in references(text):
        if not name.startswith(protocol.ENV_PREFIX):
            continue
        if name not in protocol.INJECTED_ENVIRONMENT:
            allowed = ", ".join(protocol.INJECTED_ENVIRONMENT)
            guess = did_you_mean(name, protocol.INJECTED_ENVIRONMENT)
            yield Problem(path, f"$({name}) is not a name we inject{guess}; allowed: {allowed}")
        elif name == protocol.ENV_LEARNING_RATE and spec.batch_size.learning_rate is None:
            yield Problem(
                path, f"$({name}) is set only where spec.batchSize.learningRate is given; give it"
            )


def did_you_mean(word: str, known: Any) -> str:
    """Return ` (did you mean X?)` for the nearest of `known`, or an empty text."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
