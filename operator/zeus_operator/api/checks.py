"""Everything that is wrong with a ZeusJob whose fields are valid one by one.  Pure.

The models in `types` check each field by itself, `rules` and `template_rules` hold the rules
between fields and about the template.  What is here is checked for every ZeusJob, whether it runs
in a cluster or on one machine; what only one machine needs is in `local_checks`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from zeus_operator import names
from zeus_operator.api.expand import references
from zeus_operator.api.rules import RULES
from zeus_operator.api.template import (
    LABELS_PATH,
    EnvEntry,
    Problem,
    TemplateError,
    TrainingContainer,
    job_spec,
    other_environments,
    pod_labels,
    pod_spec,
    training_container,
)
from zeus_operator.api.template_rules import (
    COMMAND_REQUIRED,
    FIELD_RULES,
    JOB,
    LABELS_TAKEN,
    MAX_RESTARTS,
    MAX_RESTARTS_PATTERN,
    NAME_TAKEN,
    NAME_TAKEN_HINT,
    NO_LEARNING_RATE,
    POD,
    UNKNOWN_REFERENCE,
)
from zeus_operator.api.types import ZeusJob, ZeusJobSpec
from zeus_runtime import protocol

_MAX_RESTARTS = re.compile(MAX_RESTARTS_PATTERN)


def problems(job: ZeusJob) -> list[Problem]:
    """Return everything that is wrong with `job`: its fields first, then its template."""
    return [*_fields(job), *_template(job.spec)]


def _fields(job: ZeusJob) -> Iterator[Problem]:
    for rule in RULES:
        wrong = rule.check(job) if rule.check else None
        if wrong is not None:
            yield Problem(rule.field, wrong)


def _template(spec: ZeusJobSpec) -> Iterator[Problem]:
    try:
        pod = pod_spec(spec)
        container = training_container(spec)
        others = list(other_environments(spec, container))
        labels = pod_labels(spec)
    except TemplateError as error:
        yield error.problem
        return
    parents = {JOB: job_spec(spec), POD: pod}
    for rule in FIELD_RULES:
        if not rule.allows(parents[rule.parent].get(rule.field)):
            yield Problem(rule.path, rule.words)
    if any(str(name).startswith(f"{names.GROUP}/") for name in labels):
        yield Problem(LABELS_PATH, LABELS_TAKEN)
    if spec.workload.inject_runtime and not container.command:
        yield Problem(f"{container.path}.command", COMMAND_REQUIRED)
    yield from _restarts(container)
    for path, env in ((container.path, container.env), *others):
        yield from _names(path, env)
    yield from _environment(spec, container)


def _restarts(container: TrainingContainer) -> Iterator[Problem]:
    """Restarts by a launcher such as torchrun would be unseen by the history of the job."""
    for key, words in (("command", container.command), ("args", container.args)):
        for index, word in enumerate(words):
            if not _MAX_RESTARTS.match(word):
                continue
            following = words[index + 1] if index + 1 < len(words) else ""
            value = word.partition("=")[2] if "=" in word else following
            if value.strip() != "0":
                yield Problem(f"{container.path}.{key}[{index}]", MAX_RESTARTS.format(word=word))


def _names(path: str, env: Iterable[EnvEntry]) -> Iterator[Problem]:
    for index, entry in enumerate(env):
        if entry.name.startswith(protocol.ENV_PREFIX):
            known = entry.name in protocol.INJECTED_ENVIRONMENT
            words = NAME_TAKEN + (NAME_TAKEN_HINT if known else "")
            yield Problem(f"{path}.env[{index}].name", words.format(name=entry.name))


def _environment(spec: ZeusJobSpec, container: TrainingContainer) -> Iterator[Problem]:
    for index, entry in enumerate(container.env):
        if entry.value is not None and not entry.name.startswith(protocol.ENV_PREFIX):
            yield from _references(spec, f"{container.path}.env[{index}].value", entry.value)
    for key, words in (("command", container.command), ("args", container.args)):
        for index, word in enumerate(words):
            yield from _references(spec, f"{container.path}.{key}[{index}]", word)


def _references(spec: ZeusJobSpec, path: str, text: str) -> Iterator[Problem]:
    """An unknown `$(ZEUS_X)` would stay literal and reach the script as such."""
    for name in references(text):
        if not name.startswith(protocol.ENV_PREFIX):
            continue
        reference = f"$({name})"
        if name not in protocol.INJECTED_ENVIRONMENT:
            guess = did_you_mean(name, protocol.INJECTED_ENVIRONMENT)
            yield Problem(path, UNKNOWN_REFERENCE.format(reference=reference, guess=guess))
        elif name == protocol.ENV_LEARNING_RATE and spec.batch_size.learning_rate is None:
            yield Problem(path, NO_LEARNING_RATE.format(reference=reference))


def did_you_mean(word: str, known: Any) -> str:
    """Return ` (did you mean X?)` for the nearest of `known`, or an empty text."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
