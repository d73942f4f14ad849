"""Everything that can be set for the operator's process, from flags and the environment.

`VARIABLES` is the one list of them, for the command, the chart and the documentation.
"""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zeus_operator import setting_parsers as parsers
from zeus_operator.executors.child_additions import TOKEN_FILE, TOKEN_MOUNT
from zeus_operator.history.fitting import MAX_KIBIBYTES, MIN_KIBIBYTES
from zeus_operator.lease import LeaseTimes
from zeus_operator.metrics import JOBS_SHOWN
from zeus_operator.mode_limits import ModeLimits, NamespaceMode
from zeus_operator.plan_spec import Mode
from zeus_operator.workloads.registry import JOB, KINDS

_PREFIX = "ZEUS_OPERATOR_"

AGENT_PORT = 8443
"""Port of the agents' Service, unless an address is given."""


class SettingsError(ValueError):
    """Settings that can't be used: one line for each, naming the variable and what is allowed."""


@dataclass(frozen=True)
class ServiceName:
    """A Service."""

    name: str
    namespace: str

    @property
    def host(self) -> str:
        """Return its name as pods of any namespace find it, whatever the cluster's domain is."""
        return f"{self.name}.{self.namespace}.svc"


@dataclass(frozen=True)
class OperatorSettings:
    """How the operator runs.  `VARIABLES` says what each field means and what it may be."""

    database_url: str = field(repr=False)  # holds a password
    identity: str
    watch_namespaces: tuple[str, ...] = ()
    workloads: tuple[str, ...] = (JOB.kind,)
    lease_namespace: str = "zeus-system"
    lease_name: str = "zeus-operator"
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)
    http_host: str = "0.0.0.0"  # noqa: S104 - kubelet and Prometheus come from outside the pod
    http_port: int = 8080
    workers: int = 8
    resync_seconds: float = 300.0
    absence_confirm_seconds: float = 300.0
    retention_days: float = 30.0
    statement_timeout_seconds: float = 10.0
    transaction_idle_timeout_seconds: float = 10.0
    metrics_jobs: int = JOBS_SHOWN
    max_mode: Mode = Mode.OPTIMIZE
    max_mode_by_namespace: tuple[NamespaceMode, ...] = ()
    history_kibibytes: int = MAX_KIBIBYTES
    agent_service: ServiceName | None = None
    agent_address: str | None = None
    agent_token_file: str = f"{TOKEN_MOUNT}/{TOKEN_FILE}"
    agent_trust_seconds: float = 30.0
    agent_reports_seconds: float = 15.0
    runtime_image: str | None = None
    log_format: str = "text"

    @property
    def mode_limits(self) -> ModeLimits:
        """The most that a ZeusJob's mode may be."""
        return ModeLimits(self.max_mode, self.max_mode_by_namespace)

    @property
    def agent_url(self) -> str | None:
        """Where runs find the agent of their node; None: there is none."""
        address = self.agent_address
        if address is None and self.agent_service is not None:
            address = f"{self.agent_service.host}:{AGENT_PORT}"
        return None if address is None else f"https://{address}"

    @property
    def agent_hosts(self) -> tuple[str, ...]:
        """What the agents' certificate is for; empty: the operator issues none."""
        service = self.agent_service
        if service is None:
            return ()
        hosts = [
            service.host,
            f"{service.name}.{service.namespace}",
            f"{service.host}.cluster.local",
        ]
        if self.agent_address is not None:
            hosts.append(parsers.host_and_port(self.agent_address)[0])
        return tuple(dict.fromkeys(hosts))


@dataclass(frozen=True)
class Variable:
    """One setting.

    Attributes:
        field: its name, also that of the flag (with hyphens).
        name: of the environment variable.
        meaning: what it does, and what is allowed.
        parse: makes the value of a text; raises ValueError with what is allowed.
    """

    field: str
    name: str
    meaning: str
    parse: Callable[[str], Any]


def load_settings(
    environment: Mapping[str, str],
    flags: Mapping[str, str | None] | None = None,
    *,
    host_name: Callable[[], str] = socket.gethostname,
    unique: Callable[[], object] = uuid.uuid4,
) -> OperatorSettings:
    """Return the settings of `flags` (by field), else of `environment`, else the defaults.

    An empty text counts as not given, as charts render an optional value.

    Raises:
        SettingsError: with everything that is wrong, not only the first.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for variable in VARIABLES:
        text = (flags or {}).get(variable.field) or environment.get(variable.name) or ""
        if not text.strip():
            continue
        try:
            values[variable.field] = variable.parse(text.strip())
        except ValueError as error:
            shown = "" if variable.field == "database_url" else f" {text!r}"
            problems.append(f"{variable.name}{shown}: {error}")
    pod_name = values.pop("pod_name", None) or host_name()
    values["identity"] = f"{pod_name}_{unique()}"
    if "database_url" not in values and not any(line.startswith("DATABASE") for line in problems):
        problems.append("DATABASE_URL is not set: say where PostgreSQL is")
    times = {name: values.pop(name) for name in _LEASE_FIELDS if name in values}
    try:
        values["lease_times"] = LeaseTimes(**times)
    except ValueError as error:
        problems.append(f"{_names_of(_LEASE_FIELDS)}: {error}")
    if not problems:
        settings = OperatorSettings(**values)
        problems = [*_fence_problems(settings), *_agent_problems(settings)]
        if not problems:
            return settings
    raise SettingsError("\n".join(problems))


def _fence_problems(settings: OperatorSettings) -> list[str]:
    """Return what would let a transaction of a dead leader outlive its Lease."""
    lease = settings.lease_times.lease_duration_seconds
    return [
        f"{_names_of((name,))} {getattr(settings, name):g}: must be shorter than the lease "
        f"duration ({lease:g} s), or a leader that was replaced could still hold a transaction"
        for name in ("statement_timeout_seconds", "transaction_idle_timeout_seconds")
        if getattr(settings, name) >= lease
    ]


def _agent_problems(settings: OperatorSettings) -> list[str]:
    """Return what the shipped rights would not allow: they are for one namespace."""
    service = settings.agent_service
    if service is None or service.namespace == settings.lease_namespace:
        return []
    return [
        f"{_names_of(('agent_service',))} '{service.name}.{service.namespace}': must be in the "
        f"namespace of the Lease ({settings.lease_namespace}): the operator has rights to the "
        "agents' certificate and addresses in its own namespace only"
    ]


def _names_of(fields: tuple[str, ...]) -> str:
    return ", ".join(variable.name for variable in VARIABLES if variable.field in fields)


def _service(text: str) -> ServiceName:
    name, _, namespace = text.partition(".")
    if not parsers.DNS_LABEL.fullmatch(name) or not parsers.DNS_LABEL.fullmatch(namespace):
        raise ValueError("must be name.namespace, such as zeus-agent.zeus-system")
    return ServiceName(name, namespace)


def _variable(field: str, meaning: str, parse: Callable[[str], Any]) -> Variable:
    return Variable(field, _PREFIX + field.upper(), meaning, parse)


_LEASE_FIELDS = ("lease_duration_seconds", "renew_deadline_seconds", "retry_period_seconds")
_SECONDS = parsers.number(0.1, 86_400, "seconds")

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "database_url",
        "DATABASE_URL",
        "where PostgreSQL is, as postgresql://user:password@host:5432/database; required",
        parsers.database,
    ),
    _variable(
        "pod_name",
        "name of this replica in the Lease and in logs; the host's name if not given",
        parsers.pattern(parsers.DNS_SUBDOMAIN, "the name of a pod"),
    ),
    _variable(
        "watch_namespaces",
        "namespaces to serve, with commas between; all if not given",
        parsers.namespaces,
    ),
    _variable(
        "workloads",
        f"kinds that a ZeusJob's workload may have, with commas between, of {', '.join(KINDS)}; "
        f"{JOB.kind} alone if not given; the rights to each have to be given as well",
        parsers.workloads,
    ),
    _variable(
        "lease_namespace",
        "namespace of the Lease",
        parsers.pattern(parsers.DNS_LABEL, "a namespace's name"),
    ),
    _variable(
        "lease_name",
        "name of the Lease; the shipped rights are for no other than zeus-operator",
        parsers.pattern(parsers.DNS_SUBDOMAIN, "the name of an object"),
    ),
    _variable(
        "lease_duration_seconds", "a standby takes over so long after the last renewal", _SECONDS
    ),
    _variable(
        "renew_deadline_seconds",
        "a leader that could not renew for so long ends; shorter than the lease duration",
        _SECONDS,
    ),
    _variable(
        "retry_period_seconds",
        "pause between renewals; less than the renew deadline / 1.2",
        _SECONDS,
    ),
    _variable("http_host", "address on which health and metrics are served", parsers.listen_host),
    _variable(
        "http_port",
        "port of health and metrics; 0: any that is free",
        parsers.integer(0, 65_535),
    ),
    _variable("workers", "threads that reconcile, 1 to 64", parsers.integer(1, 64)),
    _variable(
        "resync_seconds",
        "the cluster is compared with the store and the watches so often, 10 to 600",
        parsers.number(10, 600, "seconds"),
    ),
    _variable(
        "absence_confirm_seconds",
        "a ZeusJob is gone when two lists this far apart lack it, 1 to 86400",
        parsers.number(1, 86_400, "seconds"),
    ),
    _variable(
        "retention_days",
        "what was learned of a deleted ZeusJob is kept for so long, 0 to 3650",
        parsers.number(0, 3650, "days"),
    ),
    _variable(
        "statement_timeout_seconds",
        "longest statement in the database; shorter than the lease duration",
        _SECONDS,
    ),
    _variable(
        "transaction_idle_timeout_seconds",
        "longest pause within a transaction; shorter than the lease duration",
        _SECONDS,
    ),
    _variable(
        "metrics_jobs",
        "number of jobs with series of their own, 0 to 1000000",
        parsers.integer(0, 1_000_000),
    ),
    _variable(
        "max_mode",
        "the most that the mode of a ZeusJob may be: Observe, Recommend or Optimize; one that asks "
        "for more runs at this",
        parsers.mode,
    ),
    _variable(
        "max_mode_by_namespace",
        "the same for some namespaces, such as `team-a=Recommend,lab-*=Observe`, with `*` and `?` "
        "as in a shell; the first that fits counts",
        parsers.modes_by_namespace,
    ),
    _variable(
        "history_kibibytes",
        f"most KiB that the history beside a ZeusJob may take, {MIN_KIBIBYTES} to {MAX_KIBIBYTES}; "
        "0: none is written, and those that are there are emptied",
        parsers.history_kibibytes,
    ),
    _variable(
        "agent_service",
        "name.namespace of the agents' Service, in the namespace of the Lease; the operator issues "
        "their certificate and reads their reports; no agents if not given",
        _service,
    ),
    _variable(
        "agent_address",
        "host:port where runs find their agent; if not given, port 8443 of the agents' Service",
        parsers.address,
    ),
    _variable(
        "agent_token_file",
        "file with the operator's own token for the agents, of the audience zeus-agent",
        parsers.pattern(re.compile(r"/[^\0]{1,4000}"), "the absolute path of a file"),
    ),
    _variable(
        "agent_trust_seconds",
        "the agents' authority, certificate and ConfigMaps are looked at so often, 1 to 3600",
        parsers.number(1, 3600, "seconds"),
    ),
    _variable(
        "agent_reports_seconds",
        "the agents of nodes where runs train are asked for their progress so often, 1 to 600",
        parsers.number(1, 600, "seconds"),
    ),
    _variable(
        "runtime_image",
        "image from which the runtime is put into pods that ask for it",
        parsers.pattern(re.compile(r"[\w.\-/:@]{1,512}", re.ASCII), "the reference of an image"),
    ),
    _variable("log_format", "text or json", parsers.log_format),
)
