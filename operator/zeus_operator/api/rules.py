"""Rules between the fields of a ZeusJob, each said twice: for the API server and for Python.

The API server checks them at apply, in CEL (`x-kubernetes-validations` of the
CustomResourceDefinition); the operator and `zeusctl` check them in Python, because a file on one
machine never meets an API server.  What a user is told has one source, and the tests hold both
halves together.  Rules about the child's template are in `template_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zeus_operator import names
from zeus_operator.api.fields import (
    DECIMAL_PATTERN,
    DNS_LABEL_PATTERN,
    FRACTION_PATTERN,
    PERCENT_PATTERN,
    UP_TO_A_HALF_PATTERN,
)
from zeus_operator.api.template_rules import LABELS_TAKEN
from zeus_operator.api.types import NAME_MAX_LENGTH, ZeusJob
from zeus_operator.schedule import MACROS, ScheduleError, parse_schedule, parse_time_zone
from zeus_operator.workloads.registry import KINDS

Check = Callable[[ZeusJob], str | None]
"""Returns what is wrong with a job, or None."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Args:
        at: path of the object or field whose schema carries the rule; "" is the ZeusJob.
        field: path of the field that is wrong, as the user is told it.
        cel: true for what is allowed; `self` is what `at` names.
        message: what the user is told, where it holds no value of the object.
        message_cel: the same as a CEL expression, where it does.
        check: the Python half, with the same words; None where models refuse it already, or
            where only the API server can: it alone sees the object before a change.
        stricter: the Python half refuses more than CEL can say, and may say it better.
    """

    at: str
    field: str
    cel: str
    message: str
    check: Check | None
    message_cel: str = ""
    stricter: bool = False


def _both_schedule_and_runs(job: ZeusJob) -> str | None:
    both = job.spec.schedule is not None and job.spec.runs is not None
    return _NOT_BOTH if both else None


def _bad_schedule(job: ZeusJob) -> str | None:
    try:
        if job.spec.schedule is not None:
            parse_schedule(job.spec.schedule)
    except ScheduleError as error:
        return str(error)
    return None


def _bad_time_zone(job: ZeusJob) -> str | None:
    try:
        parse_time_zone(job.spec.time_zone)
    except ScheduleError as error:
        return str(error)
    return None


def _default_not_a_choice(job: ZeusJob) -> str | None:
    sizes = job.spec.batch_size
    if sizes.default in sizes.choices:
        return None
    allowed = ", ".join(map(str, sizes.choices))
    return f"{sizes.default} is not among spec.batchSize.choices; allowed: {allowed}"


def _learning_rate_not_positive(job: ZeusJob) -> str | None:
    rate = job.spec.batch_size.learning_rate
    return _ABOVE_ZERO if rate is not None and float(rate.default) <= 0 else None


def _bounds_crossed(job: ZeusJob) -> str | None:
    power = job.spec.power
    if power.min_percent <= power.max_percent:
        return None
    return f"{power.min_percent} is above spec.power.maxPercent; allowed: 1 to {power.max_percent}"


def _bad_label(job: ZeusJob) -> str | None:
    return _bad_keys(job.spec.workload.template.metadata.labels)


def _bad_annotation(job: ZeusJob) -> str | None:
    return _bad_keys(job.spec.workload.template.metadata.annotations)


def _other_api_version(job: ZeusJob) -> str | None:
    workload = job.spec.workload
    wanted = KINDS[workload.kind].api_version
    return None if workload.api_version == wanted else f"must be {wanted} for {workload.kind}"


def _bad_keys(mapping: Mapping[str, str]) -> str | None:
    return None if all(map(_is_qualified_name, mapping)) else _KEYS


def _is_qualified_name(key: str) -> bool:
    """Return whether Kubernetes takes `key` as a label key (`IsQualifiedName`)."""
    prefix, slash, name = key.rpartition("/")
    return (
        bool(_NAME_PART.fullmatch(name))
        and len(name) <= 63
        and (not slash or (len(prefix) <= 253 and bool(_PREFIX.fullmatch(prefix))))
    )


_NAME_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def _own_label(job: ZeusJob) -> str | None:
    labels = job.spec.workload.template.metadata.labels
    return _OWN_LABELS if any(key.startswith(f"{names.GROUP}/") for key in labels) else None


_OWN_LABELS = LABELS_TAKEN
_DECIMAL = 'must be a decimal in quotes, such as "0.97"'
_NOT_BOTH = "can't be given together with spec.schedule; keep one"
_ABOVE_ZERO = 'must be above "0"'
_SCHEDULE = (
    "is not a schedule; allowed: five fields: minute (0-59) hour (0-23) day-of-month (1-31) month "
    '(1-12 or JAN-DEC) day-of-week (0-7 or SUN-SAT), such as "0 2 * * *", or one of '
    f"{', '.join(MACROS)}; the time zone goes into spec.timeZone"
)
_NAME = (
    f"must be lower-case letters, digits and '-', at most {NAME_MAX_LENGTH} characters, so that "
    "the names of its runs fit into a label"
)
_MODE = (
    "can't be changed, because what was learned would mean the opposite; create a ZeusJob "
    "with another name"
)
_KIND = (
    "can't be changed, because the runs that go on are of the kind that it was; delete the ZeusJob "
    "and create it again: what was learned is kept"
)
_PAIRS = ", ".join(f"'{each.kind}': '{each.api_version}'" for each in KINDS.values())
_API_VERSIONS = f"{{{_PAIRS}}}"
_KEYS = "each name must be one that Kubernetes allows, such as team or example.org/team"


def _item(value: str, single: str = "") -> str:
    """Return the pattern of one item of a cron field: `*`, a value or a range, and a step."""
    return rf"((\*|{value}(-{value})?)(/0*[1-9][0-9]*)?{single})"


_DAY = "(0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)"
_CRON_FIELDS = (
    _item("0*[1-5]?[0-9]"),
    _item("0*(1?[0-9]|2[0-3])"),
    _item("0*([1-9]|[12][0-9]|3[01])", "|LW?"),
    _item("(0*([1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)"),
    _item(_DAY, rf"|{_DAY}#0*[1-5]|0*[0-7]L"),
)
SCHEDULE_PATTERN = (
    r"(?i)^\s*("
    + "|".join(sorted(MACROS))
    + "|"
    + r"\s+".join(f"{item}(,{item})*" for item in _CRON_FIELDS)
    + r")\s*$"
)
"""Five cron fields within their bounds, or a macro.  What it lets through and the operator
refuses: a range that ends before it begins, and a day that never comes."""


RULES: tuple[Rule, ...] = (
    Rule(
        at="",
        field="metadata.name",
        cel=(
            f"self.metadata.name.size() <= {NAME_MAX_LENGTH} "
            f"&& self.metadata.name.matches(r'{DNS_LABEL_PATTERN}')"
        ),
        message=_NAME,
        check=None,
    ),
    Rule(
        at="spec.schedule",
        field="spec.schedule",
        cel=f"self.matches(r'{SCHEDULE_PATTERN}')",
        message=_SCHEDULE,
        check=_bad_schedule,
        stricter=True,
    ),
    Rule(
        at="spec",
        field="spec.runs",
        cel="!(has(self.schedule) && has(self.runs))",
        message=_NOT_BOTH,
        check=_both_schedule_and_runs,
    ),
    Rule(
        at="spec.timeZone",
        field="spec.timeZone",
        cel=(
            "self.lowerAscii() != 'local' && !self.contains(':') "
            "&& timestamp('2024-01-01T00:00:00Z').getHours(self) >= 0"
        ),
        message="is not a time zone; allowed: IANA names such as UTC, Europe/Berlin or "
        "America/New_York",
        check=_bad_time_zone,
        stricter=True,
    ),
    Rule(
        at="spec.batchSize",
        field="spec.batchSize.default",
        cel="self.default in self.choices",
        message="must be among spec.batchSize.choices",
        message_cel=(
            "'%d is not among spec.batchSize.choices; allowed: %s'"
            ".format([self.default, self.choices])"
        ),
        check=_default_not_a_choice,
    ),
    Rule(
        at="spec.batchSize.learningRate",
        field="spec.batchSize.learningRate.default",
        cel=f"!self.default.matches(r'{DECIMAL_PATTERN}') || double(self.default) > 0.0",
        message=_ABOVE_ZERO,
        check=_learning_rate_not_positive,
    ),
    Rule(
        at="spec.power",
        field="spec.power.minPercent",
        cel="self.minPercent <= self.maxPercent",
        message="must not be above spec.power.maxPercent",
        message_cel=(
            "'%d is above spec.power.maxPercent; allowed: 1 to %d'"
            ".format([self.minPercent, self.maxPercent])"
        ),
        check=_bounds_crossed,
    ),
    Rule(
        at="spec.objective.metric",
        field="spec.objective.metric.mode",
        cel="self.mode == oldSelf.mode",
        message=_MODE,
        check=None,
    ),
    Rule(
        at="spec.workload",
        field="spec.workload.apiVersion",
        cel=f"self.apiVersion == {_API_VERSIONS}[self.kind]",
        message="must be that of spec.workload.kind",
        message_cel=f"'must be ' + {_API_VERSIONS}[self.kind] + ' for ' + self.kind",
        check=_other_api_version,
    ),
    Rule(
        at="spec.workload.kind",
        field="spec.workload.kind",
        cel="self == oldSelf",
        message=_KIND,
        check=None,
    ),
    # The pattern in the schema is for programs; these sentences are for people.
    *(
        Rule(at=field, field=field, cel=f"self.matches(r'{pattern}')", message=words, check=None)
        for field, pattern, words in (
            ("spec.objective.metric.target", DECIMAL_PATTERN, _DECIMAL),
            ("spec.batchSize.learningRate.default", DECIMAL_PATTERN, _DECIMAL),
            ("spec.objective.energyPreference", FRACTION_PATTERN, 'must be from "0" to "1"'),
            ("spec.savings.controlFraction", UP_TO_A_HALF_PATTERN, 'must be from "0" to "0.5"'),
            (
                "spec.exploration.maxExtraCostPercent",
                PERCENT_PATTERN,
                'must be from "0" to "100"',
            ),
        )
    ),
    Rule(
        at="spec.workload.template.metadata.labels",
        field="spec.workload.template.metadata.labels",
        cel=f"self.all(key, !key.startsWith('{names.GROUP}/'))",
        message=_OWN_LABELS,
        check=_own_label,
    ),
    *(
        Rule(
            at=f"spec.workload.template.metadata.{field}",
            field=f"spec.workload.template.metadata.{field}",
            cel="self.all(key, !format.qualifiedName().validate(key).hasValue())",
            message=_KEYS,
            check=check,
        )
        for field, check in (("labels", _bad_label), ("annotations", _bad_annotation))
    ),
)
