"""Each kind of child under its own controller: the ranks of a run, their ends, queues.

The controllers are those of JobSet, Kubeflow's training-operator and trainer, and Kubernetes' own;
the test plays the kubelets of the pods.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import FAILED, LOG_LINES
from tests.cluster.support.api import Api, ApiFailure
from tests.cluster.support.bench import NARROW, Bench, allow_all, allow_some, applied
from tests.cluster.support.binaries import Binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import Ending, Gate, crashed, evicted, held
from tests.cluster.support.happened_once import counted, everything_happened_once
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT, install
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob, ended_by_sigterm
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.two_ranks import RUNTIME, TEMPLATES, Ranks, is_rank_zero
from tests.cluster.support.workload_controllers import JOBSET, WorkloadControllers, define
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.executors.checkpoints import ClusterCheckpoint
from zeus_operator.store.store import Store
from zeus_operator.workloads.registry import KINDS
from zeus_runtime.protocol import Outcome

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]
Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that an operator has all rights on."""
    with ControlPlane(tmp_path_factory.mktemp("kinds") / "plane", binaries) as plane:
        install(plane)
        allow_all(plane)
        yield plane


@pytest.fixture(scope="module")
def controllers(
    cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkloadControllers]:
    """The controllers of all kinds."""
    with WorkloadControllers(cluster, tmp_path_factory.mktemp("controllers")) as running:
        # The webhook answers once its certificate is read.
        eventually(lambda: applied(cluster, RUNTIME), "a runtime is taken")
        yield running


@pytest.fixture(autouse=True)
def _words_of_controllers(
    request: pytest.FixtureRequest, controllers: WorkloadControllers, namespace: str
) -> Iterator[None]:
    """Of a test that fails, print what the controllers have said of its namespace."""
    yield
    if request.node.stash.get(FAILED, False):
        for name, lines in controllers.said_of(namespace).items():
            print(f"--- what {name} said of {namespace} ---")
            print("\n".join(lines[-LOG_LINES:]))


@pytest.fixture(scope="module")
def service_account(cluster: ControlPlane) -> Path:
    return cluster.kubeconfig_for(SERVICE_ACCOUNT, OPERATOR_NAMESPACE)


@pytest.fixture
def operator(make_operator: MakeOperator) -> OperatorProcess:
    return make_operator(workloads=",".join(KINDS)).start().wait_until_leading()


@pytest.fixture(params=TEMPLATES)
def bench(request: pytest.FixtureRequest, zeusjobs: ZeusJobs, stored: Store) -> Bench:
    return Bench(request.param, zeusjobs, stored)


# A run of two ranks ----------------------------------------------------------------


def test_runs_of_two_ranks_are_learned_from_by_the_result_of_rank_0(
    bench: Bench, operator: OperatorProcess, make_node: MakeNode
) -> None:
    ranks = Ranks(bench.kind.kind, SyntheticJob())
    make_node(ranks)
    bench.apply(runs=3)

    bench.zeusjobs.wait_for_runs("job", 3)

    attempts = bench.attempts()
    assert [each.outcome for each in attempts][-1] is Outcome.REACHED
    assert all(len(each.executions) == 1 for each in attempts)
    assert all(each.energy_joules for each in attempts)
    by_run = {(run.recurrence, run.attempt) for run in ranks.seen}
    assert len(ranks.seen) == 2 * len(by_run), "each run has two pods"
    assert all(run.batch_size for run in ranks.seen), "all ranks know the decision"
    expanded = {run.manifest["spec"]["restartPolicy"] for run in ranks.seen}
    assert expanded == {"Never"}
    labels = [child["metadata"]["labels"] for child in bench.children()]
    assert all(each["kueue.x-k8s.io/queue-name"] == "gpus" for each in labels)


def test_a_rank_that_fails_ends_the_run_and_is_named(
    bench: Bench, operator: OperatorProcess, make_node: MakeNode
) -> None:
    gate = Gate()
    fails = held(gate, lambda _run: crashed(3))
    never = Gate()
    ranks = Ranks(bench.kind.kind, held(never, SyntheticJob()), fails)
    make_node(ranks)
    bench.apply(retry={"maxAttempts": 1})
    eventually(lambda: bench.pods_in("Running") == 2, "both ranks run")

    gate.open()

    bench.zeusjobs.wait_for_runs("job", 1)
    (attempt,) = bench.attempts()
    (failed,) = [run for run in ranks.seen if not is_rank_zero(bench.kind.kind, run)]
    assert attempt.outcome is Outcome.CRASHED
    assert f"pod {failed.name} of the same run failed (exit code 3)" in attempt.detail


def test_a_rank_that_is_evicted_ends_the_execution_and_the_attempt_goes_on(
    bench: Bench, operator: OperatorProcess, make_node: MakeNode
) -> None:
    gate, never = Gate(), Gate()
    ranks = Ranks(bench.kind.kind, held(never, SyntheticJob()), held(gate, lambda _run: evicted()))
    node = make_node(ranks)
    bench.apply()
    eventually(lambda: bench.pods_in("Running") == 2, "both ranks run")
    before = {run.batch_size for run in ranks.seen}
    node.trainer = again = Ranks(bench.kind.kind, SyntheticJob())

    gate.open()

    bench.zeusjobs.wait_for_runs("job", 1)
    (attempt,) = bench.attempts()
    first, second = attempt.executions
    assert (first.outcome, attempt.outcome) == (Outcome.PREEMPTED, Outcome.REACHED)
    assert "evicted by its node" in first.reason
    assert second.result is not None
    assert {run.batch_size for run in again.seen} == before, "under the same decision"


def test_a_rank_that_is_taken_away_and_replaced_alone_is_no_crash_of_the_others(
    zeusjobs: ZeusJobs, stored: Store, operator: OperatorProcess, make_node: MakeNode
) -> None:
    """The training-operator makes it anew; the others fail for want of the one that they had.

    Also by force a pod is first asked to end and then gone: where the training-operator looks in
    between, it ends the others, as it does with one that has its grace period.
    """
    bench = Bench("PyTorchJob", zeusjobs, stored)
    fail, never = Gate(), Gate()
    fails = held(fail, lambda _: crashed(log="connection reset"))
    ranks = Ranks("PyTorchJob", fails, held(never, lambda _: Ending(0)))
    node = make_node(ranks)
    bench.apply()
    eventually(lambda: bench.pods_in("Running") == 2, "both ranks run")
    eventually(lambda: bench.youngest_pod_seconds() > 1, "times of the API are whole seconds")
    (other,) = [run for run in ranks.seen if not is_rank_zero("PyTorchJob", run)]
    node.trainer = later = Ranks("PyTorchJob", SyntheticJob())
    zeusjobs.api.delete(f"{bench.pods_path}/{other.name}", gracePeriodSeconds=0)
    eventually(lambda: later.seen, "one is made anew")

    fail.open()

    bench.zeusjobs.wait_for_runs("job", 1)
    (attempt,) = bench.attempts()
    first, second = attempt.executions
    assert (first.outcome, attempt.outcome) == (Outcome.PREEMPTED, Outcome.REACHED)
    words = f"pod {other.name} of the same run was"
    assert first.reason in (
        f"{words} replaced alone: it was deleted",
        f"{words} deleted",
        "its pod was deleted",
    )
    assert second.result is not None


@pytest.mark.parametrize("is_rank_0", [True, False], ids=["rank 0", "another"])
def test_a_rank_that_is_asked_to_end_preempts_the_run(
    zeusjobs: ZeusJobs,
    stored: Store,
    operator: OperatorProcess,
    make_node: MakeNode,
    is_rank_0: bool,
) -> None:
    """The training-operator counts it as failed at once, makes none anew and ends the others.

    Where a pod is gone before the training-operator has looked, it makes another one.
    """
    bench, never, ends = Bench("PyTorchJob", zeusjobs, stored), Gate(), Gate()
    ranks = Ranks("PyTorchJob", held(never, SyntheticJob()), held(never, lambda _: Ending(0)))
    node = make_node(ranks, stopped=held(ends, ended_by_sigterm))
    bench.apply()
    eventually(lambda: bench.pods_in("Running") == 2, "both ranks run")
    node.trainer = Ranks("PyTorchJob", SyntheticJob())
    (asked,) = [run for run in ranks.seen if is_rank_zero("PyTorchJob", run) is is_rank_0]

    zeusjobs.api.delete(f"{bench.pods_path}/{asked.name}")
    eventually(lambda: bench.pods_asked_to_end() == 2, "the training-operator ends the other")
    ends.open()

    bench.zeusjobs.wait_for_runs("job", 1)
    (attempt,) = bench.attempts()
    first, second = attempt.executions
    assert (first.outcome, attempt.outcome) == (Outcome.PREEMPTED, Outcome.REACHED)
    # Within one second nobody can tell which was first.
    deleted = "its pod was deleted", f"pod {asked.name} of the same run was deleted"
    assert first.reason in (deleted[:1] if is_rank_0 else deleted)
    assert second.result is not None


def test_where_rank_0_leaves_no_result_another_ranks_counts_as_a_partial_one(
    bench: Bench, operator: OperatorProcess, make_node: MakeNode
) -> None:
    job, gate = SyntheticJob(), Gate()
    ranks = Ranks(
        bench.kind.kind,
        held(gate, lambda _run: crashed(1)),
        lambda run: Ending(0, message=job.partial(run, 3)),
    )
    make_node(ranks)
    bench.apply(retry={"maxAttempts": 1})
    eventually(lambda: bench.pods_in("Succeeded") == 1, "the other rank has ended")

    gate.open()

    bench.zeusjobs.wait_for_runs("job", 1)
    (attempt,) = bench.attempts()
    assert attempt.outcome is Outcome.CRASHED
    assert attempt.epochs == 3


# Queues ----------------------------------------------------------------------------


def test_a_child_that_a_queue_suspends_is_queued_and_the_same_attempt_goes_on(
    bench: Bench, operator: OperatorProcess, make_node: MakeNode
) -> None:
    never = Gate()
    ranks = Ranks(bench.kind.kind, held(never, SyntheticJob()), held(never, lambda _: Ending(0)))
    node = make_node(ranks)
    bench.apply(suspend=True)
    bench.wait_for_state("Queued")
    assert ranks.seen == []

    bench.suspend(False)  # admitted
    bench.wait_for_state("Running")
    eventually(lambda: len(ranks.seen) == 2, "both ranks run")
    (child,) = bench.children()
    node.trainer = Ranks(bench.kind.kind, SyntheticJob())
    bench.suspend(True)  # preempted by the queue
    bench.wait_for_state("Queued")
    # A queue admits nobody again before the pods have ended.
    eventually(lambda: bench.attempts()[0].executions[0].ended_at, "the first execution has ended")
    bench.suspend(False)

    bench.zeusjobs.wait_for_runs("job", 1)
    (attempt,) = bench.attempts()
    assert [each.outcome for each in attempt.executions] == [Outcome.PREEMPTED, None]
    assert attempt.executions[0].reason == f"its {bench.kind.kind} was suspended"
    assert attempt.outcome is Outcome.REACHED
    (same,) = bench.children()
    assert same["metadata"]["uid"] == child["metadata"]["uid"]


# Operators that die ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("TrainJob", ClusterCheckpoint.AFTER_CREATE_COMPANION),
        ("TrainJob", ClusterCheckpoint.AFTER_CREATE_CHILD),
        ("JobSet", ClusterCheckpoint.BEFORE_RECORD_END),
    ],
)
def test_where_the_leader_is_killed_the_other_replica_goes_on_and_nothing_happens_twice(
    kind: str,
    moment: ClusterCheckpoint,
    zeusjobs: ZeusJobs,
    stored: Store,
    make_operator: MakeOperator,
    make_node: MakeNode,
) -> None:
    started: Counter[tuple[str, str]] = Counter()
    make_node(Ranks(kind, counted(SyntheticJob(), started)))
    leader = make_operator(workloads=kind).start(at=moment).wait_until_leading()
    standby = make_operator(workloads=kind).start()
    bench = Bench(kind, zeusjobs, stored)
    bench.apply(successfulJobsHistoryLimit=0, failedJobsHistoryLimit=0)
    assert leader.wait_for_end() == -9, leader.log

    zeusjobs.wait_for_runs("job", 1)

    everything_happened_once(zeusjobs, stored, started, 1)
    eventually(lambda: not bench.children(), "the child is pruned")
    eventually(lambda: not bench.runtimes(), "with what was made beside it")
    assert not standby.has_ended


# What goes with a child ------------------------------------------------------------


def test_a_child_that_is_pruned_takes_all_of_it_along(
    bench: Bench, operator: OperatorProcess, make_node: MakeNode, api: Api
) -> None:
    make_node(Ranks(bench.kind.kind, SyntheticJob()))
    bench.apply(runs=2, successfulJobsHistoryLimit=0, failedJobsHistoryLimit=0)
    bench.zeusjobs.wait_for_runs("job", 2)
    namespace = f"namespaces/{bench.zeusjobs.namespace}"

    eventually(lambda: not bench.children(), "the children are gone")
    eventually(lambda: not api.items(f"/api/v1/{namespace}/pods"), "their pods are gone")
    eventually(lambda: not bench.runtimes(), "and the runtimes that were made for them")


# What is served --------------------------------------------------------------------


def test_a_kind_that_is_not_allowed_is_said(
    zeusjobs: ZeusJobs, stored: Store, make_operator: MakeOperator
) -> None:
    make_operator().start().wait_until_leading()
    bench = Bench("JobSet", zeusjobs, stored)
    bench.apply()

    condition = zeusjobs.wait_for_condition("job", "Ready", "False", "WorkloadNotAllowed")

    assert "JobSet is not allowed here; allowed: Job." in condition["message"]
    assert "operator.workloads" in condition["message"]
    assert bench.children() == []


def test_a_kind_that_is_not_installed_or_not_any_more_is_said_and_served_once_it_is(
    own_cluster: ControlPlane, tmp_path: Path, database: str, stored: Store
) -> None:
    install(own_cluster)
    allow_all(own_cluster)
    own_cluster.kubectl("create", "namespace", "team")
    account = own_cluster.kubeconfig_for(SERVICE_ACCOUNT, OPERATOR_NAMESPACE)
    operator = OperatorProcess(
        tmp_path, account, database, OPERATOR_NAMESPACE, workloads="Job,JobSet"
    )
    with contextlib.closing(own_cluster.api()) as api, contextlib.ExitStack() as stack:
        stack.callback(operator.kill)
        operator.start().wait_until_leading()
        zeusjobs = ZeusJobs(api, "team", stored)
        bench = Bench("JobSet", zeusjobs, stored)
        bench.apply(runs=2)
        condition = zeusjobs.wait_for_condition("job", "Ready", "False", "WorkloadNotInstalled")
        assert "jobset.x-k8s.io/v1alpha2" in condition["message"]

        define(own_cluster, JOBSET)

        zeusjobs.wait_for_condition("job", "Ready", "True")
        eventually(lambda: len(bench.children()) == 1, "its child is there")
        assert not operator.has_ended, "nothing had to be started again"
        assert operator.leads, "and nothing else has waited for it"
        (child,) = bench.children()

        own_cluster.kubectl("delete", "crd", "jobsets.jobset.x-k8s.io")

        assert operator.wait_for_end() == 1, operator.log
        operator.start()  # as the kubelet does
        zeusjobs.wait_for_condition("job", "Ready", "False", "WorkloadNotInstalled")

        define(own_cluster, JOBSET)

        zeusjobs.wait_for_condition("job", "Ready", "True")
        (run,) = zeusjobs.wait_for_runs("job", 1)
        assert run["outcome"] == "Cancelled", "its child was deleted with the definition"
        eventually(lambda: len(bench.children()) == 1, "the next run has a child")
        assert bench.children()[0]["metadata"]["uid"] != child["metadata"]["uid"]


def test_rights_to_some_namespaces_suffice_for_trainjobs(
    cluster: ControlPlane,
    zeusjobs: ZeusJobs,
    stored: Store,
    make_node: MakeNode,
    tmp_path: Path,
    database: str,
) -> None:
    account = cluster.kubeconfig_for(SERVICE_ACCOUNT, allow_some(cluster, zeusjobs.namespace))
    operator = OperatorProcess(
        *(tmp_path, account, database, NARROW),
        watch_namespaces=zeusjobs.namespace,
        workloads="TrainJob",
    )
    make_node(Ranks("TrainJob", SyntheticJob()))
    bench = Bench("TrainJob", zeusjobs, stored)
    with contextlib.ExitStack() as stack:
        stack.callback(operator.kill)
        operator.start()

        bench.apply(successfulJobsHistoryLimit=0, failedJobsHistoryLimit=0)

        zeusjobs.wait_for_runs("job", 1)
        eventually(lambda: not bench.children() and not bench.runtimes(), "all of it is gone")
    assert bench.attempts()[0].outcome is Outcome.REACHED
    assert "forbidden" not in operator.log


def test_the_kind_of_a_zeusjob_stays(zeusjobs: ZeusJobs, stored: Store) -> None:
    bench = Bench("JobSet", zeusjobs, stored)
    bench.apply()
    other = {"apiVersion": "batch/v1", "kind": "Job"}

    with pytest.raises(ApiFailure, match=r"spec\.workload\.kind: .*can't be changed"):
        zeusjobs.patch("job", {"spec": {"workload": other}})
