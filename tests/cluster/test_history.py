"""What the operator puts beside a ZeusJob, and what `kubectl zeus` shows of it."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cluster.support.api import Object
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import Gate, held
from tests.cluster.support.kubectl_zeus import KubectlZeus
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import DEADLINE_SECONDS, eventually
from zeus_operator.cli.main import main as zeusctl_program
from zeus_operator.history.document import ProjectedHistory, read

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]
Zeusctl = Callable[..., str]

NAME = "job-zeus-history"
KEY = "history.json.gz"
BACKED_OFF_SECONDS = 300.0
"""Within this it is tried again, however long something has stood in the way during two runs."""
VIEW = ("system:aggregate-to-view", "zeusjobs-view")
"""What `view` is made of: no controller puts it together here."""


@pytest.fixture
def zeus(cluster: ControlPlane, namespace: str, tmp_path: Path) -> KubectlZeus:
    """The plugin with the rights that the role `view` gives in the namespace, and no others."""
    return KubectlZeus(user_with(VIEW, cluster, namespace), namespace, tmp_path)


@pytest.fixture
def zeusctl(database: str, namespace: str, tmp_path: Path) -> Zeusctl:
    """The program of one machine on the operator's database."""

    def run(command: str, *arguments: str) -> str:
        environment = {"ZEUS_HOME": str(tmp_path / "home"), "DATABASE_URL": database}
        asked = [command, f"{namespace}/job", *arguments]
        result = CliRunner().invoke(zeusctl_program, asked, env={**os.environ, **environment})
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def user_with(roles: Sequence[str], cluster: ControlPlane, namespace: str) -> Path:
    """Return a kubeconfig of somebody who has these ClusterRoles in the namespace."""
    user = f"user-{uuid.uuid4().hex[:8]}"
    for role in roles:
        name = f"{user}-{role}".replace(":", "-")
        binding = ("create", "rolebinding", name, f"--clusterrole={role}", f"--user={user}")
        cluster.kubectl(*binding, "-n", namespace)
    return cluster.kubeconfig_of(user, f"/CN={user}")


def path(zeusjobs: ZeusJobs, name: str = NAME) -> str:
    return f"/api/v1/namespaces/{zeusjobs.namespace}/configmaps/{name}"


def config_map(zeusjobs: ZeusJobs) -> Object:
    found = zeusjobs.api.find(path(zeusjobs))
    return found or {}


def projected(zeusjobs: ZeusJobs) -> ProjectedHistory | None:
    """Return what is in the ConfigMap now."""
    data = (config_map(zeusjobs).get("binaryData") or {}).get(KEY)
    return read(base64.b64decode(data)) if data else None


def shows_runs(zeusjobs: ZeusJobs, count: int, deadline_seconds: float = DEADLINE_SECONDS) -> None:
    def ended() -> int:
        found = projected(zeusjobs)
        return sum(r.ended_at is not None for r in found.recurrences) if found else -1

    eventually(lambda: ended() == count, f"the history shows {count} recurrences", deadline_seconds)


def put(zeusjobs: ZeusJobs, name: str = NAME, **parts: Any) -> Object:
    """Let a person create a ConfigMap."""
    metadata = {"name": name, "labels": {"zeus.energy/job": "job"}}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **parts}
    return zeusjobs.api.post(path(zeusjobs, ""), body)


def test_it_says_the_same_as_the_store(
    zeus: KubectlZeus,
    zeusctl: Zeusctl,
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
) -> None:
    make_node(SyntheticJob())
    make_operator().start()
    zeusjobs.apply("job", runs=3, exploration={"maxExtraCostPercent": "100"})
    zeusjobs.wait_for_runs("job", 3)
    shows_runs(zeusjobs, 3)

    for command in (("history",), ("history", "--limit", "1"), ("explain",), ("explain", "1.1")):
        name, *options = command
        assert zeus.out(name, "job", *options) == zeusctl(name, *options)
        assert zeus.json(name, "job", *options) == json.loads(zeusctl(name, *options, "-o", "json"))
    pages = (zeus.directory / "ours.html", zeus.directory / "theirs.html")
    said = zeus.out("report", "job", "--out", str(pages[0]))
    told = zeusctl("report", "--out", str(pages[1]))
    assert said.replace("ours", "theirs") == told
    ours, theirs = (without_times(page.read_text()) for page in pages)
    assert ours == theirs
    assert "Made again on the stored history, the decision is the same." in zeus.out(
        "explain", "job", "3"
    )


def without_times(page: str) -> str:
    return re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+( UTC|\+00:00)?", "", page)


def test_an_active_run_is_explained_and_its_end_is_shown(
    zeus: KubectlZeus, zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    gate = Gate()
    make_node(held(gate, SyntheticJob()))
    make_operator().start()
    zeusjobs.apply("job", runs=1)
    eventually(lambda: projected(zeusjobs), "a history is there")

    assert "First run: the default batch size 128" in zeus.out("explain", "job")
    assert zeus.json("history", "job")["recurrences"][0]["state"] == "open"

    gate.open()
    shows_runs(zeusjobs, 1)
    assert zeus.json("history", "job")["recurrences"][0]["state"] == "reached"


def test_nobody_but_the_zeusjob_owns_it_and_it_goes_with_it(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    make_operator().start()
    zeusjobs.apply("job", runs=1)
    shows_runs(zeusjobs, 1)
    (owner,) = config_map(zeusjobs)["metadata"]["ownerReferences"]
    uid = zeusjobs.uid("job")
    assert (owner["kind"], owner["name"], owner["uid"]) == ("ZeusJob", "job", uid)

    zeusjobs.delete("job")
    eventually(lambda: not config_map(zeusjobs), "it is collected", 60.0)

    # A new one of the name gets its own, with what the name has learned before.
    zeusjobs.apply("job", runs=2)
    shows_runs(zeusjobs, 3)
    assert config_map(zeusjobs)["metadata"]["ownerReferences"][0]["uid"] != uid


def test_a_restarted_operator_writes_nothing_that_is_there(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    first = make_operator().start()
    zeusjobs.apply("job", runs=2)
    zeusjobs.wait_for_runs("job", 2)
    zeusjobs.wait_for_condition("job", "Progressing", "False")
    shows_runs(zeusjobs, 2)
    first.stop()
    before = config_map(zeusjobs)["metadata"]

    second = make_operator().start().wait_until_leading()
    series = f'namespace="{zeusjobs.namespace}"'
    eventually(lambda: series in second.get("/metrics")[1], "it has looked at the job")
    zeusjobs.apply("other", runs=1)
    zeusjobs.wait_for_runs("other", 1)

    assert config_map(zeusjobs)["metadata"] == before
    zeusjobs.annotate("job", run="again")
    shows_runs(zeusjobs, 3)


def test_a_strangers_stays_as_it_is_and_runs_go_on(
    zeus: KubectlZeus, zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    before = put(zeusjobs, data={"mine": "yes"})
    make_node(SyntheticJob())
    make_operator().start()
    zeusjobs.apply("job", runs=2)
    zeusjobs.wait_for_runs("job", 2)

    (event,) = eventually(lambda: zeusjobs.events("HistoryCollision"), "an Event says so")
    assert f"the ConfigMap {NAME} is there and is not this ZeusJob's" in event["message"]
    assert config_map(zeusjobs) == before
    code, _, errors = zeus("history", "job")
    assert code == 1
    assert f"{NAME} is not this ZeusJob's history but somebody else's" in errors

    zeusjobs.api.delete(path(zeusjobs))
    shows_runs(zeusjobs, 2, BACKED_OFF_SECONDS)
    assert len(zeus.json("history", "job")["recurrences"]) == 2


def test_what_a_quota_refuses_is_said_and_runs_go_on(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    quotas = f"/api/v1/namespaces/{zeusjobs.namespace}/resourcequotas"
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"configmaps": "0"}}}
    zeusjobs.api.post(quotas, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    eventually(
        lambda: zeusjobs.api.get(f"{quotas}/none").get("status", {}).get("hard"),
        "the quota is enforced",
    )
    make_node(SyntheticJob())
    make_operator().start()
    zeusjobs.apply("job", runs=2)
    zeusjobs.wait_for_runs("job", 2)

    (event,) = eventually(lambda: zeusjobs.events("HistoryRefused"), "an Event says so")
    assert "exceeded quota: none" in event["message"]
    assert zeusjobs.condition("job", "Ready")["status"] == "True"

    zeusjobs.api.delete(f"{quotas}/none")
    shows_runs(zeusjobs, 2, BACKED_OFF_SECONDS)


def test_a_reset_empties_it(
    zeus: KubectlZeus, zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    make_operator().start()
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_runs("job", 1)
    shows_runs(zeusjobs, 1)

    zeusjobs.annotate("job", reset="monday")

    shows_runs(zeusjobs, 0)
    assert zeus.out("history", "job") == f"{zeusjobs.namespace}/job has no recurrence yet.\n"


def test_one_that_was_deleted_comes_back_with_the_next_run(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    make_operator().start()
    zeusjobs.apply("job", runs=1)
    shows_runs(zeusjobs, 1)
    zeusjobs.api.delete(path(zeusjobs))

    zeusjobs.annotate("job", run="again")

    shows_runs(zeusjobs, 2)
    assert zeusjobs.events("HistoryRefused") == [], "nobody has refused anything"


def test_before_anything_has_happened_the_plugin_says_so(
    zeus: KubectlZeus, zeusjobs: ZeusJobs, make_operator: MakeOperator
) -> None:
    zeusjobs.apply("job")
    assert zeus("history", "job")[2].strip() == (
        "it has no history yet: the operator has not seen it"
    )

    make_operator().start()
    zeusjobs.wait_for_condition("job", "Ready", "True")

    for command in ("history", "explain", "report"):
        code, _, errors = zeus(command, "job")
        assert (code, errors.strip()) == (1, "it has no recurrence yet")
    assert not config_map(zeusjobs), "nothing is made for a job to which nothing has happened"


def test_who_may_not_read_config_maps_is_told_which_right_is_missing(
    cluster: ControlPlane, zeusjobs: ZeusJobs, namespace: str, tmp_path: Path
) -> None:
    zeusjobs.apply("job")
    caller = user_with(["zeusjobs-view"], cluster, namespace)

    code, _, errors = KubectlZeus(caller, namespace, tmp_path)("explain", "job")

    assert code == 1
    assert f"you need the right to `get` `configmaps` in namespace {namespace}" in errors
    assert "is forbidden" in errors


def test_whoever_edits_it_chooses_neither_a_file_nor_what_a_terminal_does(
    zeus: KubectlZeus, zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    make_operator().start()
    zeusjobs.apply("job", runs=1)
    shows_runs(zeusjobs, 1)

    def edit(change: Callable[[Object], None]) -> None:
        packed = base64.b64decode(config_map(zeusjobs)["binaryData"][KEY])
        document = json.loads(gzip.decompress(packed))
        change(document)
        data = base64.b64encode(gzip.compress(json.dumps(document).encode())).decode()
        zeusjobs.api.patch(path(zeusjobs), {"binaryData": {KEY: data}})

    def speak(document: Object) -> None:
        document["recurrences"][0]["attempts"][0]["decision"]["sentence"] = "a\x1b[2Jb"

    edit(speak)
    assert "a [2Jb" in zeus.out("explain", "job")
    explained = zeus.json("explain", "job")["attempts"][0]
    assert explained["reason"] == "a\x1b[2Jb"

    edit(lambda document: document["job"].update(name="../outside"))
    code, _, errors = zeus("report", "job")
    assert code == 1
    assert "it is the history of another ZeusJob" in errors
    assert not list(zeus.directory.parent.rglob("*-report.html"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({KEY: {"version": 2}}, "version 2 and this program reads up to 1: use the kubectl-zeus"),
        ({KEY: {"version": 1}}, "can't be read: it is broken: KeyError('job')"),
        ({"other": {}}, f"can't be read: it has no {KEY}"),
    ],
    ids=["newer", "broken", "empty"],
)
def test_what_the_plugin_can_not_read_it_says(
    zeus: KubectlZeus, zeusjobs: ZeusJobs, data: dict[str, Object], words: str
) -> None:
    zeusjobs.apply("job")
    packed = {
        key: base64.b64encode(gzip.compress(json.dumps(value).encode())).decode()
        for key, value in data.items()
    }
    owner = {
        "apiVersion": "zeus.energy/v1alpha1",
        "kind": "ZeusJob",
        "name": "job",
        "uid": zeusjobs.uid("job"),
        "controller": True,
    }
    put(zeusjobs, metadata={"name": NAME, "ownerReferences": [owner]}, binaryData=packed)

    code, _, errors = zeus("history", "job")

    assert code == 1
    assert words in errors
