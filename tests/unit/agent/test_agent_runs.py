"""What runs now, as Prometheus sees it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from zeus_agent.callers import PodCaller
from zeus_agent.cluster.live_pods import LivePod
from zeus_agent.runs import RunsCollector
from zeus_agent.sessions import Owner, Sessions
from zeus_runtime.protocol import Result, SessionRequest

TRAIN = PodCaller("team", "train", "uid-1", "trainer")
POD = LivePod("uid-1", "team", "train", "trainer", "digits")
LABELS = {"namespace": "team", "pod": "train", "zeusjob": "digits"}


def shown(sessions: Sessions, *pods: LivePod) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RunsCollector(sessions, {pod.uid: pod for pod in pods}.get))
    return registry


def test_the_last_report_of_an_open_session_is_shown_and_goes_with_it() -> None:
    sessions = Sessions()
    session, _ = sessions.open("run", TRAIN, SessionRequest(job="says-who"), 0.0)
    registry = shown(sessions, POD)
    assert b"team" not in generate_latest(registry)
    session.report = Result(epochs=3, energy_joules=None, last_metric=0.5, job="says-who")
    assert registry.get_sample_value("zeus_agent_run_epochs", LABELS) == 3.0
    assert registry.get_sample_value("zeus_agent_run_last_metric", LABELS) == 0.5
    text = generate_latest(registry)
    assert b"zeus_agent_run_energy_joules{" not in text, "not known is not zero"
    assert b"says-who" not in text, "labels are not the caller's words"
    sessions.end(session.id)
    assert b"team" not in generate_latest(registry)


def test_of_several_sessions_of_a_pod_the_one_used_last_is_shown_once() -> None:
    sessions = Sessions()
    for name, epochs in (("one", 1), ("two", 2)):
        session, _ = sessions.open(name, TRAIN, SessionRequest(), 0.0)
        session.report = Result(epochs=epochs)
    sessions.use("one", TRAIN, 5.0)
    text = generate_latest(shown(sessions, POD)).decode()
    assert text.count("zeus_agent_run_epochs{") == 1
    assert 'zeusjob="digits"} 1.0' in text


def test_processes_of_one_machine_have_no_series() -> None:
    sessions = Sessions()
    session, _ = sessions.open("run", Owner(1, 1, 0), SessionRequest(), 0.0)
    session.report = Result(epochs=3)
    assert b"zeus_agent_run_epochs{" not in generate_latest(shown(sessions))
