"""Nodes with real agents: one where all is well and pods train, one to go wrong, a blind one."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpu_simulator import UNTIL_CLEARED, Scope
from tests.cluster.support.processes import end, spawn
from tests.observability.support.recorded_operator import NAMESPACE, SAVING
from tests.support.cluster_node import SERVER_NAME, ClusterNode, Pod, cluster_node, fresh
from tests.support.eventually import eventually
from zeus_operator.trust.certificates import issue, key_pem_of, make_authority, pem_of
from zeus_runtime.agent_client import AgentError
from zeus_runtime.protocol import Decision, SessionRequest

HEALTHY, SICK, BLIND = "gpu-node-1", "gpu-node-2", "gpu-node-3"
POLICY = "version: 1\ngpus: [{model: '*A40*', defaultPercent: 80}]\n"

_ROOT = Path(__file__).resolve().parents[3]
_TRAINING = _ROOT / "tests" / "support" / "training_loop.py"
_EPOCHS = 100_000  # it trains until the test ends
PATIENCE_SECONDS = 300.0
"""For a program that starts, on a machine that has other work."""

# Many times what a visit to the simulator takes: an agent that waits for a CPU has no sick GPU.
_NVML_TIMEOUT = ("--nvml-timeout-seconds", "5")

# The agent, killed by the kernel when the thread that started it ends: that of the tests.
_DIES_WITH_THE_TESTS = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:  # PR_SET_PDEATHSIG
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("the parent has ended")
from zeus_agent.main import main
sys.exit(main())
"""


@contextlib.contextmanager
def node_of_the_tests(models: Sequence[str]) -> Iterator[ClusterNode]:
    """Yield a node whose agent, which is not started yet, never outlives the tests."""
    with cluster_node(models) as node:
        node.program = ["-c", _DIES_WITH_THE_TESTS, str(os.getpid())]
        yield node


@contextlib.contextmanager
def healthy_node() -> Iterator[ClusterNode]:
    """Yield a node where a run of a ZeusJob trains, and a notebook holds a limit.

    A GPU is shared and one is idle, so that energy of each kind is counted; the A40 has a node
    default.
    """
    with node_of_the_tests(("V100", "V100", "A40", "V100")) as node:
        policy = node.folder / "policy.yaml"
        policy.write_text(POLICY)
        node.simulator.set("time_scale", 0.1)
        _show_certificate(node, days=90)
        node.start_agent("--policy", str(policy), *_NVML_TIMEOUT)
        training, notebook, shared, _idle = node.uuids
        run = node.pod(
            fresh("cifar100-1"), training, namespace=NAMESPACE, labels={"zeus.energy/job": SAVING}
        )
        other = node.pod(fresh("notebook"), notebook, namespace="research").client()
        other.open_session("notebook", SessionRequest(ttl_seconds=600.0))
        other.set_power_limit("notebook", notebook, 150.0)
        node.pod(fresh("server"), f"{shared}::0", namespace="research")
        with trains(run, training):
            eventually(
                lambda: 'zeus_agent_run_best_metric{namespace="vision"' in node.shown(),
                "the run has reported",
                PATIENCE_SECONDS,
            )
            yield node


@contextlib.contextmanager
def trains(pod: Pod, gpu: str) -> Iterator[None]:
    """Train in the pod by the real runtime, on its simulated GPU, and report each epoch."""
    decision = Decision(batch_size=16, target=1.0, metric_mode="Max", max_epochs=_EPOCHS)
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith("ZEUS_")},
        **pod.node.environment,
        **pod.environment,
        "PYTHONPATH": str(_ROOT),
        "CUDA_VISIBLE_DEVICES": gpu,
        "ZEUS_AGENT": pod.node.url,
        "ZEUS_JOB": f"{NAMESPACE}/{SAVING}",
        "ZEUS_RECURRENCE": "1",
        "ZEUS_ATTEMPT": "1",
        "ZEUS_DECISION": decision.to_json(),
        "ZEUS_RESULT_PATH": str(pod.node.folder / "result"),
    }
    plan = {"metrics": [0.2, 0.5, 0.7], "repeat_last": True, "steps": 40, "max_epochs": _EPOCHS}
    command = [sys.executable, str(_TRAINING), json.dumps(plan)]
    process = spawn(command, pod.node.folder / "training.log", env=environ)
    try:
        yield
    finally:
        end(process, kill=True)


@contextlib.contextmanager
def second_node() -> Iterator[ClusterNode]:
    """Yield a node on which `make_sick` can do its worst; its kubelet has never answered."""
    with node_of_the_tests(("V100", "V100", "V100", "V100")) as node:
        (node.folder / "policy.yaml").write_text("version: 1\n")
        _show_certificate(node, days=7)
        node.run(node.kubelet.stop())
        policy = ("--policy", str(node.folder / "policy.yaml"))
        node.start_agent(*policy, *_NVML_TIMEOUT, is_ready=False)
        yield node


@contextlib.contextmanager
def blind_node() -> Iterator[ClusterNode]:
    """Yield a node whose agent has neither a driver nor a certificate."""
    with node_of_the_tests(("V100",)) as node:
        node.certificate.unlink()
        node.start_agent(without_driver=True, is_ready=False)
        yield node


@contextlib.contextmanager
def make_sick(node: ClusterNode) -> Iterator[None]:
    """Let everything happen that an alert is about.

    One GPU is lost while its lease has a limit to give back, the driver hangs at another, someone
    else sets the third one's limit and the driver holds it lower, the last one can't be set; the
    policy's file is broken, and a caller without a token knocks.
    """
    lost, hung, foreign, forbidden = node.uuids
    client = node.client()
    client.open_session("here", SessionRequest(ttl_seconds=600.0))
    for uuid in (lost, foreign):
        client.set_power_limit("here", uuid, 150.0)
    node.simulator.set_fault(lost, "lost")
    eventually(lambda: node.metric_or_zero("zeus_agent_gpu_healthy", lost) == 0, "it is lost")
    client.release("here", lost)
    node.simulator.foreign_limit(foreign, 120.0)
    node.simulator.set_fault(foreign, "enforced_cap_watts", 100.0)
    node.simulator.set_fault(forbidden, "no_permission")
    _refused(lambda: client.set_power_limit("here", forbidden, 150.0))
    node.simulator.set_fault(hung, "hang_seconds", UNTIL_CLEARED, scope=Scope.ALL)
    (node.folder / "policy.yaml").write_text("version: 1\nnonsense: 1\n")
    with _knocks(node):
        yield


@contextlib.contextmanager
def _knocks(node: ClusterNode) -> Iterator[None]:
    """Let a caller without a token try again and again."""
    ends = threading.Event()

    def knock() -> None:
        while not ends.wait(0.05):
            with contextlib.suppress(OSError):
                node.ask("GET", "/v1/node", None)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def _refused(call: Callable[[], object]) -> None:
    with pytest.raises(AgentError):
        call()


def _show_certificate(node: ClusterNode, *, days: float) -> None:
    """Give the agent a certificate that ends in so many days."""
    now = datetime.now(UTC)
    node.authority = make_authority(now, timedelta(days=365))  # no certificate outlives its own
    leaf = issue(node.authority, (SERVER_NAME,), now, timedelta(days=days))
    node.key.write_text(key_pem_of(leaf.key))
    node.certificate.write_text(pem_of(leaf.certificate))
