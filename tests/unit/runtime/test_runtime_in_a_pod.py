"""Whole scripts in a pod: the agent is called over TLS, and whatever it says, training goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.eventually import eventually
from tests.support.runtime_lab import RuntimeLab, decided
from tests.support.tls_server import Answer, Front, Request, error, front
from zeus_runtime.protocol import PowerProfilePoint


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeLab]:
    made = RuntimeLab(tmp_path_factory.mktemp("z"))
    yield made
    made.close()


@pytest.fixture
def pod(lab: RuntimeLab) -> Iterator[Front]:
    """The node's agent as a pod sees it."""
    lab.start_agent()
    with front(lab.socket, lab.folder) as made:
        yield made


def environ_of(lab: RuntimeLab, pod: Front, **changes: object) -> dict[str, str]:
    return lab.environ(decided(**changes), agent=False, **pod.environment)


def test_a_run_in_a_pod_holds_a_limit_and_reports_each_epoch(lab: RuntimeLab, pod: Front) -> None:
    known = tuple(
        PowerProfilePoint(watts, power, 0.1)
        for watts, power in ((250.0, 200.0), (175.0, 150.0), (100.0, 149.0))
    )
    driver = lab.run({"metrics": [0.95]}, environ_of(lab, pod)).result
    assert driver is not None
    environ = environ_of(
        lab,
        pod,
        power_profile=known,
        profile_gpu_model=driver.gpu_model,
        profile_driver=driver.gpu_driver,
    )
    plan = {"metrics": [0.1, 0.2, 0.95], "pause_after": [2]}
    process = lab.start(plan, environ)
    shown = lab.wait_for_pause(process)
    lab.wait_for_limit(differs_from=ADMIN_CAP_WATTS)
    eventually(lambda: reported(pod, shown.attempt, 2), "the second epoch is reported")
    lab.go_on(process)
    ended = lab.end(process)
    assert ended.result is not None, ended.errors
    assert (ended.exit_code, ended.result.outcome) == (0, "reached")
    last = json.loads(pod.asked("PUT", "/report")[-1].body)
    assert (last["epochs"], last["outcome"], last["sequence"]) == (
        ended.result.epochs,
        "reached",
        ended.result.sequence,
    )
    lab.wait_until_restored()


def reported(pod: Front, attempt: int, epochs: int) -> bool:
    reports = [json.loads(request.body) for request in pod.asked("PUT", "/report")]
    return any((each["attempt"], each["epochs"]) == (attempt, epochs) for each in reports)


def test_the_session_of_a_pod_ends_with_its_connection_and_is_named_without_a_pid(
    lab: RuntimeLab, pod: Front
) -> None:
    environ = environ_of(lab, pod)
    for _ in range(2):  # two containers, say, whose processes have the same number
        lab.run({"metrics": [0.95]}, environ)
    opened = [request for request in pod.server.requests if request.method == "PUT"]
    opened = [request for request in opened if b"ends_with_connection" in request.body]
    names = {request.path.rpartition("/")[2] for request in opened}
    assert len(names) == 2
    assert all(json.loads(request.body)["ends_with_connection"] for request in opened)
    assert all(name.startswith("team-job.7.1.") for name in names)


def test_what_a_killed_container_had_reported_is_with_the_agent(
    lab: RuntimeLab, pod: Front
) -> None:
    process = lab.start({"metrics": [0.1] * 9, "pause_after": [3]}, environ_of(lab, pod))
    shown = lab.wait_for_pause(process)
    eventually(lambda: reported(pod, shown.attempt, 3), "the third epoch is reported")
    process.send_signal(signal.SIGKILL)
    lab.end(process)
    eventually(lambda: pod.server.open_connections == 0, "the agent sees the end")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("not_owner", 403),
        ("gpu_shared", 403),
        ("policy_denied", 403),
        ("rate_limited", 429),
        ("identity_unavailable", 503),
    ],
)
def test_a_limit_that_is_refused_is_told_once_and_training_goes_on(
    lab: RuntimeLab, pod: Front, code: str, status: int
) -> None:
    def instead(request: Request) -> Answer | None:
        if request.method != "PUT" or not request.path.endswith("/power-limit"):
            return None
        return error(status, code, f"because {code}", retry_after_seconds=0.2)

    pod.instead = instead
    ended = lab.run({"metrics": [0.1] * 7 + [0.95], "steps": 40}, environ_of(lab, pod))
    result = ended.result
    assert result is not None, ended.errors
    assert (ended.exit_code, result.outcome) == (0, "reached")
    assert result.power_limit_watts is None
    assert result.power_profile == ()
    assert ended.errors.count(f"because {code}") == 1
    assert f"because {code}" in result.note
    assert lab.limit(lab.uuids[0]) == ADMIN_CAP_WATTS


@pytest.mark.parametrize("fault", ["unauthenticated", "not trusted", "no token", "no server"])
def test_without_an_agent_that_serves_it_a_run_trains_and_says_why(
    lab: RuntimeLab, pod: Front, tmp_path: Path, fault: str
) -> None:
    environ = environ_of(lab, pod)
    said = {
        "unauthenticated": "proves nothing",
        "not trusted": "is not trusted",
        "no token": "token can't be read from",
        "no server": "refused",
    }[fault]
    if fault == "unauthenticated":
        pod.tokens = set()
    elif fault == "not trusted":
        environ["ZEUS_AGENT_CA"] = ""
    elif fault == "no token":
        environ["ZEUS_AGENT_TOKEN_FILE"] = str(tmp_path / "nothing")
    else:
        environ["ZEUS_AGENT"] = "https://localhost:9"
    ended = lab.run({"metrics": [0.1] * 7 + [0.95], "steps": 40}, environ)
    assert ended.result is not None, ended.errors
    assert (ended.exit_code, ended.result.outcome) == (0, "reached")
    assert ended.result.energy_joules is not None
    assert ended.errors.count(said) == 1
    assert "token-1" not in ended.errors
