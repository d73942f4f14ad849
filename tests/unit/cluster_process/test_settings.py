"""Settings: flags, then the environment, then defaults; what is wrong is named, all at once."""

from __future__ import annotations

import pytest

from zeus_operator.lease import LeaseTimes
from zeus_operator.mode_limits import ModeLimits, NamespaceMode
from zeus_operator.plan_spec import Mode
from zeus_operator.settings import (
    VARIABLES,
    OperatorSettings,
    ServiceName,
    SettingsError,
    load_settings,
)

URL = "postgresql://zeus:hunter2@db:5432/zeus"


def load(flags: object = None, /, **environment: str) -> OperatorSettings:
    assert flags is None or isinstance(flags, dict)
    return load_settings(
        {"DATABASE_URL": URL, **environment}, flags, host_name=lambda: "host", unique=lambda: "u1"
    )


def test_only_the_database_is_required() -> None:
    assert load() == OperatorSettings(database_url=URL, identity="host_u1")


def test_every_field_can_be_set_by_a_variable() -> None:
    settings = load(
        ZEUS_OPERATOR_POD_NAME="zeus-operator-0",
        ZEUS_OPERATOR_WATCH_NAMESPACES="vision, speech,vision",
        ZEUS_OPERATOR_LEASE_NAMESPACE="zeus-system",
        ZEUS_OPERATOR_LEASE_NAME="zeus",
        ZEUS_OPERATOR_LEASE_DURATION_SECONDS="1.5",
        ZEUS_OPERATOR_RENEW_DEADLINE_SECONDS="0.9",
        ZEUS_OPERATOR_RETRY_PERIOD_SECONDS="0.2",
        ZEUS_OPERATOR_HTTP_HOST="::",
        ZEUS_OPERATOR_HTTP_PORT="0",
        ZEUS_OPERATOR_WORKERS="4",
        ZEUS_OPERATOR_RESYNC_SECONDS="60",
        ZEUS_OPERATOR_ABSENCE_CONFIRM_SECONDS="10",
        ZEUS_OPERATOR_RETENTION_DAYS="0.5",
        ZEUS_OPERATOR_STATEMENT_TIMEOUT_SECONDS="1",
        ZEUS_OPERATOR_TRANSACTION_IDLE_TIMEOUT_SECONDS="1.2",
        ZEUS_OPERATOR_METRICS_JOBS="10",
        ZEUS_OPERATOR_MAX_MODE="Recommend",
        ZEUS_OPERATOR_MAX_MODE_BY_NAMESPACE="team-a=Optimize, team-* = Observe",
        ZEUS_OPERATOR_HISTORY_KIBIBYTES="64",
        ZEUS_OPERATOR_AGENT_SERVICE="zeus-agent.zeus-system",
        ZEUS_OPERATOR_AGENT_ADDRESS="zeus-agent.zeus-system:8443",
        ZEUS_OPERATOR_AGENT_TOKEN_FILE="/tokens/agent",
        ZEUS_OPERATOR_AGENT_TRUST_SECONDS="60",
        ZEUS_OPERATOR_AGENT_REPORTS_SECONDS="5",
        ZEUS_OPERATOR_RUNTIME_IMAGE="registry.example:5000/zeus/runtime@sha256:0123",
        ZEUS_OPERATOR_LOG_FORMAT="json",
    )
    assert settings == OperatorSettings(
        database_url=URL,
        identity="zeus-operator-0_u1",
        watch_namespaces=("vision", "speech"),
        lease_namespace="zeus-system",
        lease_name="zeus",
        lease_times=LeaseTimes(1.5, 0.9, 0.2),
        http_host="::",
        http_port=0,
        workers=4,
        resync_seconds=60,
        absence_confirm_seconds=10,
        retention_days=0.5,
        statement_timeout_seconds=1,
        transaction_idle_timeout_seconds=1.2,
        metrics_jobs=10,
        max_mode=Mode.RECOMMEND,
        max_mode_by_namespace=(
            NamespaceMode("team-a", Mode.OPTIMIZE),
            NamespaceMode("team-*", Mode.OBSERVE),
        ),
        history_kibibytes=64,
        agent_service=ServiceName("zeus-agent", "zeus-system"),
        agent_address="zeus-agent.zeus-system:8443",
        agent_token_file="/tokens/agent",
        agent_trust_seconds=60,
        agent_reports_seconds=5,
        runtime_image="registry.example:5000/zeus/runtime@sha256:0123",
        log_format="json",
    )


def test_a_flag_comes_before_its_variable() -> None:
    settings = load({"workers": "2", "log_format": None}, ZEUS_OPERATOR_WORKERS="4")
    assert (settings.workers, settings.log_format) == (2, "text")


def test_modes_are_limited_by_the_namespace_and_else_by_the_default() -> None:
    limits = load(
        ZEUS_OPERATOR_MAX_MODE="Observe", ZEUS_OPERATOR_MAX_MODE_BY_NAMESPACE="a=Recommend"
    ).mode_limits

    assert limits == ModeLimits(Mode.OBSERVE, (NamespaceMode("a", Mode.RECOMMEND),))
    assert load().mode_limits == ModeLimits()


@pytest.mark.parametrize(("text", "kibibytes"), [("0", 0), ("16", 16), ("256", 256)])
def test_a_history_has_some_room_or_none(text: str, kibibytes: int) -> None:
    assert load(ZEUS_OPERATOR_HISTORY_KIBIBYTES=text).history_kibibytes == kibibytes


def test_an_empty_text_counts_as_not_given() -> None:
    assert load(ZEUS_OPERATOR_AGENT_ADDRESS="", ZEUS_OPERATOR_WORKERS=" ") == load()


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("DATABASE_URL", "mysql://zeus:secret@db/zeus", "must look like postgresql://"),
        ("ZEUS_OPERATOR_POD_NAME", "My Pod", "the name of a pod"),
        ("ZEUS_OPERATOR_WATCH_NAMESPACES", "vision,Speech", "'Speech' is none"),
        ("ZEUS_OPERATOR_LEASE_NAMESPACE", "a.b", "a namespace's name"),
        ("ZEUS_OPERATOR_LEASE_NAME", "UPPER", "the name of an object"),
        ("ZEUS_OPERATOR_LEASE_DURATION_SECONDS", "15s", "a number of seconds from 0.1 to 86400"),
        ("ZEUS_OPERATOR_LEASE_DURATION_SECONDS", "nan", "a number of seconds from 0.1 to 86400"),
        ("ZEUS_OPERATOR_HTTP_HOST", "not a host", "an address or name of this machine"),
        ("ZEUS_OPERATOR_HTTP_PORT", "70000", "a whole number from 0 to 65535"),
        ("ZEUS_OPERATOR_WORKERS", "0", "a whole number from 1 to 64"),
        ("ZEUS_OPERATOR_WORKERS", "4.5", "a whole number from 1 to 64"),
        ("ZEUS_OPERATOR_RESYNC_SECONDS", "1", "a number of seconds from 10 to 600"),
        ("ZEUS_OPERATOR_RETENTION_DAYS", "-1", "a number of days from 0 to 3650"),
        ("ZEUS_OPERATOR_MAX_MODE", "observe", "must be Observe, Recommend or Optimize"),
        ("ZEUS_OPERATOR_MAX_MODE_BY_NAMESPACE", "team-a", "'team-a' is none"),
        ("ZEUS_OPERATOR_MAX_MODE_BY_NAMESPACE", "a=Observe,b=None", "'b=None' is none"),
        ("ZEUS_OPERATOR_MAX_MODE_BY_NAMESPACE", "Team=Observe", "such as team-*=Observe"),
        ("ZEUS_OPERATOR_MAX_MODE_BY_NAMESPACE", "a=Observe,a=Optimize", "a is there again"),
        ("ZEUS_OPERATOR_HISTORY_KIBIBYTES", "8", "from 16 to 256, or 0 for none"),
        ("ZEUS_OPERATOR_HISTORY_KIBIBYTES", "257", "from 16 to 256, or 0 for none"),
        ("ZEUS_OPERATOR_AGENT_ADDRESS", "zeus-agent", "must be host:port"),
        ("ZEUS_OPERATOR_AGENT_ADDRESS", "zeus-agent:0", "must be host:port"),
        ("ZEUS_OPERATOR_AGENT_ADDRESS", "[fe80::1%eth0]:8443", "no interface of one machine"),
        ("ZEUS_OPERATOR_AGENT_SERVICE", "zeus-agent", "must be name.namespace"),
        ("ZEUS_OPERATOR_AGENT_SERVICE", "a.gpus", "in the namespace of the Lease (zeus-system)"),
        ("ZEUS_OPERATOR_AGENT_SERVICE", "a.b.svc", "must be name.namespace"),
        ("ZEUS_OPERATOR_AGENT_TOKEN_FILE", "token", "the absolute path of a file"),
        ("ZEUS_OPERATOR_AGENT_TRUST_SECONDS", "0", "a number of seconds from 1 to 3600"),
        ("ZEUS_OPERATOR_AGENT_REPORTS_SECONDS", "0.1", "a number of seconds from 1 to 600"),
        ("ZEUS_OPERATOR_RUNTIME_IMAGE", "an image", "the reference of an image"),
        ("ZEUS_OPERATOR_LOG_FORMAT", "xml", "must be text or json"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(
    variable: str, text: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        load(**{variable: text})
    assert str(raised.value).startswith(variable)
    assert allowed in str(raised.value)


def test_runs_find_the_agent_at_its_service_unless_an_address_is_given() -> None:
    def url(**environment: str) -> str | None:
        named = {f"ZEUS_OPERATOR_AGENT_{key.upper()}": text for key, text in environment.items()}
        return load(**named).agent_url

    assert url() is None
    assert url(service="zeus-agent.zeus-system") == "https://zeus-agent.zeus-system.svc:8443"
    assert url(address="gpu.example:443") == "https://gpu.example:443"
    assert url(service="zeus-agent.zeus-system", address="[fd00::7]:443") == "https://[fd00::7]:443"


def test_the_agents_certificate_is_for_every_name_by_which_a_run_may_call() -> None:
    service = {"ZEUS_OPERATOR_AGENT_SERVICE": "zeus-agent.zeus-system"}
    of_the_service = tuple(
        f"zeus-agent.zeus-system{end}" for end in (".svc", "", ".svc.cluster.local")
    )
    assert load().agent_hosts == ()
    assert load(ZEUS_OPERATOR_AGENT_ADDRESS="gpu.example:443").agent_hosts == ()
    assert load(**service).agent_hosts == of_the_service
    for address, host in (("gpu.example:443", "gpu.example"), ("[fd00::7]:443", "fd00::7")):
        found = load(**service, ZEUS_OPERATOR_AGENT_ADDRESS=address).agent_hosts
        assert found == (*of_the_service, host)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"ZEUS_OPERATOR_WORKERS": "many", "ZEUS_OPERATOR_HTTP_PORT": "http"})
    assert [line.split(" ")[0] for line in str(raised.value).splitlines()] == [
        "ZEUS_OPERATOR_HTTP_PORT",
        "ZEUS_OPERATOR_WORKERS",
        "DATABASE_URL",
    ]


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"LEASE_DURATION_SECONDS": "10"}, "longer than the renew deadline"),
        ({"RETRY_PERIOD_SECONDS": "9"}, "longer than 1.2 retry periods"),
    ],
)
def test_a_lease_that_two_could_hold_is_refused(environment: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match="ZEUS_OPERATOR_LEASE_DURATION_SECONDS, ") as raised:
        load(**{f"ZEUS_OPERATOR_{name}": text for name, text in environment.items()})
    assert why in str(raised.value)


@pytest.mark.parametrize("name", ["STATEMENT_TIMEOUT_SECONDS", "TRANSACTION_IDLE_TIMEOUT_SECONDS"])
def test_a_transaction_must_not_outlive_the_lease(name: str) -> None:
    with pytest.raises(SettingsError, match=r"must be shorter than the lease duration \(15 s\)"):
        load(**{f"ZEUS_OPERATOR_{name}": "15"})


def test_the_password_is_shown_nowhere() -> None:
    with pytest.raises(SettingsError) as raised:
        load(DATABASE_URL="mysql://zeus:hunter2@db/zeus")
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(load())


def test_the_list_of_variables_has_each_once() -> None:
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
