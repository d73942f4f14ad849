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
    EnvEntry,
    Problem,
    TemplateError,
    TrainingContainer,
    child_spec,
    container_beside,
    container_in,
    environments,
    pod_labels,
    pod_templates,
)
from zeus_operator.api.template_rules import (
    COMMAND_REQUIRED,
    LABELS_TAKEN,
    MAX_RESTARTS,
    MAX_RESTARTS_PATTERN,
    NAME_TAKEN,
    NAME_TAKEN_HINT,
    NO_LEARNING_RATE,
    UNKNOWN_REFERENCE,
)
from zeus_operator.api.types import ZeusJob, ZeusJobSpec
from zeus_operator.workloads.base import PodTemplate
from zeus_operator.workloads.registry import KINDS
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
    kind, child = KINDS[spec.workload.kind], child_spec(spec)
    try:
        first, *others = pod_templates(spec)
        container = container_in(first, spec.workload.container)
        # Each container that trains, and what it is beside.
        trains = [container]
        trains += [found for each in others if (found := container_beside(each, container.name))]
        for template in (first, *others):  # what can't be read is told alone
            pod_labels(template)
            list(environments(template))
    except TemplateError as error:
        yield error.problem
        return
    for rule in kind.rules:
        if rule.is_broken_by(child):
            yield Problem(rule.path, rule.words)
    yield from kind.problems(child)
    for each in trains:
        if spec.workload.inject_runtime and not each.command and not first.is_partial:
            yield Problem(f"{each.path}.command", COMMAND_REQUIRED)
    yield from pod_problems(spec, (first, *others), trains)


def pod_problems(
    spec: ZeusJobSpec, templates: Iterable[PodTemplate], trains: Iterable[TrainingContainer]
) -> Iterator[Problem]:
    """Yield what no pod of a run may hold, whoever has made its template.

    Args:
        trains: the containers of these templates that train.

    Raises:
        TemplateError: a template can't be read.
    """
    templates, trains = tuple(templates), tuple(trains)
    for template in templates:
        path, labels = pod_labels(template)
        if any(str(name).startswith(f"{names.GROUP}/") for name in labels):
            yield Problem(path, LABELS_TAKEN)
    for each in trains:
        yield from _restarts(each)
    for template in templates:
        for path, env in environments(template):
            yield from _names(path, env)
    for each in trains:
        yield from _environment(spec, each)


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
