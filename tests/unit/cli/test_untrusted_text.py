"""What somebody else has written may be shown, and neither steers a terminal nor names a file."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.histories import Try, job_record, recurrence
from zeus_operator.cli.cluster import main
from zeus_operator.history import config_map
from zeus_operator.history.fitting import project
from zeus_operator.kube import Object
from zeus_operator.records import JobRecord, RecurrenceRecord
from zeus_operator.report.findings import findings_of
from zeus_runtime.protocol import Outcome

JOB = job_record()
STEERS = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b1A\r\n\u202erecurrence 9.9: forged\udc80"
"""A title, an erased screen, a colour, a line up, a line of its own, letters turned round."""
ZEUSJOBS = "/apis/zeus.energy/v1alpha1/namespaces/default/zeusjobs"
CONFIG_MAP = "/api/v1/namespaces/default/configmaps/digits-zeus-history"


class Cluster:
    """An API server that has what a test puts into it, and the plugin in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, Object] = {}
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = cluster.objects.get(self.path)
                self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
                self.end_headers()
                self.wfile.write(json.dumps(found or {}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._kubeconfig()))
        self.folder = folder / "deep" / "empty"
        self.folder.mkdir(parents=True)

    def _kubeconfig(self) -> Object:
        server = f"http://127.0.0.1:{self.server.server_address[1]}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        }

    def put(self, packed: bytes = b"", status: Object | None = None) -> None:
        """Let there be the ZeusJob with its status, and its history."""
        about = {"namespace": JOB.namespace, "name": JOB.name, "uid": JOB.uid}
        self.objects[f"{ZEUSJOBS}/digits"] = {"metadata": about, "status": status or {}}
        made = config_map.manifest(JOB.namespace, JOB.name, JOB.uid, packed, "mark")
        self.objects[CONFIG_MAP] = made

    def zeus(self, *arguments: str) -> Result:
        """Call the plugin."""
        asked = [*arguments, "--kubeconfig", str(self.kubeconfig)]
        return CliRunner().invoke(main, asked)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    monkeypatch.chdir(cluster.folder)
    thread = threading.Thread(target=cluster.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield cluster
    cluster.server.shutdown()
    cluster.server.server_close()
    thread.join()


def history(sentence: str = "Because.", detail: str = "", reason: str = "") -> RecurrenceRecord:
    run = recurrence(1, [Try(256, Outcome.CRASHED, sentence=sentence)])
    attempts = (replace(run.attempts[0], detail=detail),)
    return replace(run, attempts=attempts, reason=reason)


def packed(*recurrences: RecurrenceRecord, job: JobRecord = JOB) -> bytes:
    return project(job, findings_of(recurrences, 0.5), recurrences, ())


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n")) and "\nrecurrence 9" not in text


@pytest.mark.parametrize("command", ["history", "explain", "report"])
@pytest.mark.parametrize(
    "other",
    [
        {"name": "../outside"},
        {"name": "/nowhere/outside"},
        {"name": f"digits{STEERS}"},
        {"namespace": "other"},
        {"uid": "another"},
    ],
    ids=["path", "absolute path", "steers", "namespace", "uid"],
)
def test_a_history_that_says_it_is_another_zeusjobs_is_refused(
    cluster: Cluster, command: str, other: dict[str, Any]
) -> None:
    cluster.put(packed(history(), job=replace(JOB, **other)))
    before = sorted(cluster.folder.parent.parent.rglob("*"))

    said = cluster.zeus(command, "digits")

    assert (said.exit_code, said.stdout) == (1, "")
    assert "digits-zeus-history can't be read: it is the history of another ZeusJob" in said.stderr
    assert "delete it, and the operator makes it anew at the next run" in said.stderr
    assert is_harmless(said.stderr)
    assert sorted(cluster.folder.parent.parent.rglob("*")) == before, "nothing is written"


def test_the_report_is_named_by_the_zeusjob(cluster: Cluster) -> None:
    cluster.put(packed(history()))

    said = cluster.zeus("report", "digits")

    assert said.exit_code == 0, said.output
    assert [each.name for each in cluster.folder.iterdir()] == ["digits-report.html"]


@pytest.mark.parametrize(
    ("command", "run"),
    [
        ("explain", history(sentence=STEERS, detail=STEERS)),
        ("history", replace(history(reason=STEERS), attempts=())),
    ],
    ids=["explain", "history"],
)
def test_texts_of_a_history_can_not_steer_a_terminal(
    cluster: Cluster, command: str, run: RecurrenceRecord
) -> None:
    cluster.put(packed(run))

    said = cluster.zeus(command, "digits")

    assert said.exit_code == 0, said.output
    assert "]0;title  [2J [31mred 1A   recurrence 9.9: forged" in said.stdout
    assert is_harmless(said.stdout)


def test_json_holds_the_very_texts_and_only_letters_of_ascii(cluster: Cluster) -> None:
    cluster.put(packed(history(detail=STEERS)))

    said = cluster.zeus("explain", "digits", "-o", "json").stdout

    assert json.loads(said)["attempts"][0]["detail"] == STEERS
    assert said.isascii()
    assert is_harmless(said)


def _condition(text: str) -> Object:
    condition = {"type": "Ready", "status": "True", "reason": "Ok", "message": text}
    return {"conditions": [condition]}


@pytest.mark.parametrize(
    "status",
    [
        _condition,
        lambda text: {"nextScheduleTime": text},
        lambda text: {"active": [{"attempt": 1, "maxAttempts": 5, "state": text}]},
        lambda text: {"runs": [{"attempts": 1, "outcome": text}]},
        lambda text: {"mode": text},
        lambda text: {"best": {"sentence": text}},
    ],
    ids=["condition", "next", "active", "run", "mode", "best"],
)
def test_a_status_can_not_steer_a_terminal(
    cluster: Cluster, status: Callable[[str], Object]
) -> None:
    cluster.put(status=status(STEERS))

    said = cluster.zeus("status", "digits")
    exact = json.loads(cluster.zeus("status", "digits", "-o", "json").stdout)

    assert said.exit_code == 0, said.output
    assert "]0;title  [2J [31mred 1A   recurrence 9.9: forged" in said.stdout
    assert is_harmless(said.stdout)
    assert exact == [{**status(STEERS), "name": "digits"}]


def test_words_about_a_broken_history_can_not_steer_a_terminal(cluster: Cluster) -> None:
    document = json.loads(gzip.decompress(packed(history())))
    document["job"]["handled"] = {STEERS: 1}
    cluster.put(gzip.compress(json.dumps(document).encode()))

    said = cluster.zeus("history", "digits")

    assert said.exit_code == 1
    assert "it is broken at handled" in said.stderr
    assert is_harmless(said.stderr)
