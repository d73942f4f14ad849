"""Around every request: errors become answers, refusals are counted, and told once a minute."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.async_scenario import Clock, scenario
from zeus_agent import options, peers
from zeus_agent.answers import Answer
from zeus_agent.api import Api, Call
from zeus_agent.authenticators import UnixPeers
from zeus_agent.broker import Broker
from zeus_agent.callers import PodCaller
from zeus_agent.connections import Connection, Connections
from zeus_agent.http1 import Request
from zeus_agent.journal import Journal
from zeus_agent.leases import Refused
from zeus_agent.listeners import Listener, listen_unix
from zeus_agent.metrics import Metrics
from zeus_agent.openings import OPENINGS_BURST
from zeus_agent.operations import OPERATIONS
from zeus_agent.readiness import Readiness, gpus_expected
from zeus_agent.server import QUIET_SECONDS, Server
from zeus_agent.sessions import Owner
from zeus_runtime.protocol import ErrorCode

TRAIN = PodCaller("team", "train", "uid-1", "trainer")


class Anybody:
    """Takes whom the test puts in for the caller."""

    is_local = False

    def __init__(self) -> None:
        self.who: PodCaller | Refused = TRAIN

    async def caller(
        self, request: Request, connection: Connection, *, for_renewal: bool
    ) -> PodCaller:
        if isinstance(self.who, Refused):
            raise self.who
        return self.who


@dataclass
class Lab:
    server: Server
    api: Api
    broker: Broker
    metrics: Metrics
    clock: Clock
    anybody: Anybody
    path: Path

    async def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, Any, str]:
        """Make a request on a connection of its own; return status, JSON and the head."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        data = await reader.read()
        writer.close()
        first, _, rest = data.partition(b"\r\n\r\n")
        return int(first.split()[1]), json.loads(rest) if rest else None, first.decode()

    def refusals(self, code: ErrorCode) -> float:
        value = self.metrics.registry.get_sample_value(
            "zeus_agent_refusals_total", {"code": code.value}
        )
        return value or 0.0


@asynccontextmanager
async def lab(*, as_pods: bool = True) -> AsyncIterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="zeus-") as name:
        folder = Path(name)
        journal, metrics, clock, anybody = (
            Journal(folder / "state", "b"),
            Metrics(),
            Clock(),
            Anybody(),
        )
        broker = Broker(journal, metrics, clock=clock)
        api = Api(broker, metrics, Readiness(), clock=clock)
        server = Server(api, OPERATIONS, anybody if as_pods else UnixPeers(), metrics, clock)
        connections = Connections(server, clock)
        listener = Listener(listen_unix(folder / "s", shared=False), connections)
        serving = asyncio.create_task(listener.serve())
        try:
            yield Lab(server, api, broker, metrics, clock, anybody, folder / "s")
        finally:
            await listener.close()
            await asyncio.gather(serving, return_exceptions=True)
            await connections.close(1.0)
            journal.close()


@scenario
async def test_a_fault_of_ours_with_one_request_does_not_end_the_agent() -> None:
    async with lab() as at:

        async def fails(_call: Call) -> Answer:
            raise ZeroDivisionError("secret of the inside")

        at.api.handlers["leases"] = fails
        status, body, _ = await at.ask("GET", "/v1/leases")
        assert (status, body["code"]) == (500, ErrorCode.INTERNAL)
        assert "secret" not in json.dumps(body)
        assert (await at.ask("GET", "/healthz"))[0] == 200
        assert at.refusals(ErrorCode.INTERNAL) == 1


@scenario
async def test_a_refusal_without_a_proof_says_how_to_prove_and_ends_the_connection() -> None:
    async with lab() as at:
        at.anybody.who = Refused(ErrorCode.UNAUTHENTICATED, "send a token", reason="missing")
        status, body, head = await at.ask("GET", "/v1/leases")
        assert (status, body["details"]) == (401, {"reason": "missing"})
        assert "WWW-Authenticate: Bearer" in head
        assert "Connection: close" in head


@scenario
async def test_who_should_come_again_is_told_when() -> None:
    async with lab() as at:
        at.anybody.who = Refused(ErrorCode.IDENTITY_UNAVAILABLE, "away", retry_after_seconds=1.2)
        status, body, head = await at.ask("GET", "/v1/leases")
        assert (status, body["details"]["retry_after_seconds"]) == (503, 1.2)
        assert "Retry-After: 2" in head


@scenario
async def test_the_wrong_method_names_the_right_ones() -> None:
    async with lab() as at:
        status, body, head = await at.ask("POST", "/v1/leases")
        assert (status, body["code"]) == (405, ErrorCode.BAD_REQUEST)
        assert "Allow: GET" in head


@scenario
async def test_a_caller_that_is_refused_again_and_again_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with lab() as at:
        with caplog.at_level(logging.WARNING):
            for _ in range(50):
                assert (await at.ask("GET", "/v1/reports"))[0] == 403
            assert len(caplog.records) == 1
            at.anybody.who = PodCaller("team", "other", "uid-2", "trainer")
            await at.ask("GET", "/v1/reports")
            assert len(caplog.records) == 2, "another caller is told"
            at.clock.advance(QUIET_SECONDS)
            await at.ask("GET", "/v1/reports")
            assert len(caplog.records) == 3, "and the same after a minute"
        assert at.refusals(ErrorCode.FORBIDDEN) == 52


@scenario
async def test_processes_without_end_of_a_user_that_may_not_call_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = itertools.count(1000)
    stranger = lambda _socket: peers.Credentials(next(pids), 65534, 65534)  # noqa: E731
    monkeypatch.setattr(peers, "credentials", stranger)
    async with lab(as_pods=False) as at:
        with caplog.at_level(logging.WARNING):
            for _ in range(20):
                assert (await at.ask("GET", "/v1/leases"))[0] == 403
        assert len(caplog.records) == 1


@scenario
async def test_probes_without_end_have_the_metrics_made_once_a_second() -> None:
    async with lab() as at:
        made = []
        text = at.metrics.text

        def count() -> bytes:
            made.append(1)
            return text()

        at.metrics.text = count  # type: ignore[method-assign]
        handler = at.api.handlers["metrics"]
        request = Call(None, None, None, {})  # type: ignore[arg-type]
        for _ in range(50):
            assert (await handler(request)).status == 200
        assert len(made) == 1
        at.clock.advance(1.0)
        await handler(request)
        assert len(made) == 2
        await handler(replace(request, caller=Owner(1, 1, 0)))
        assert len(made) == 3, "who is known gets what is now"


@scenario
async def test_refusals_of_pods_are_passed_on() -> None:
    async with lab() as at:
        told: list[tuple[PodCaller, ErrorCode]] = []
        at.server.on_pod_refused = lambda pod, refused: told.append((pod, refused.code))
        await at.ask("GET", "/v1/reports")
        await at.ask("GET", "/v1/sessions/none")
        assert told == [(TRAIN, ErrorCode.FORBIDDEN), (TRAIN, ErrorCode.NOT_FOUND)]


@scenario
async def test_a_pod_that_opens_and_closes_in_a_loop_neither_fills_the_log_nor_stops_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with lab() as at:
        assert (await at.ask("PUT", "/v1/sessions/kept"))[0] == 200
        with caplog.at_level(logging.INFO, logger="zeus_agent.broker"):
            answers = []
            for _ in range(2 * OPENINGS_BURST):
                answers.append(await at.ask("PUT", "/v1/sessions/a"))
                await at.ask("DELETE", "/v1/sessions/a")
        assert len(caplog.records) <= 2 * OPENINGS_BURST
        status, body, head = answers[-1]
        assert (status, body["code"]) == (429, ErrorCode.RATE_LIMITED)
        assert body["details"]["retry_after_seconds"] > 0
        assert "Retry-After:" in head
        assert (await at.ask("PUT", "/v1/sessions/kept"))[0] == 200, "it opens nothing"
        at.anybody.who = PodCaller("team", "other", "uid-2", "trainer")
        assert (await at.ask("PUT", "/v1/sessions/a"))[0] == 200
        at.anybody.who = TRAIN
        at.clock.advance(body["details"]["retry_after_seconds"])
        assert (await at.ask("PUT", "/v1/sessions/a"))[0] == 200, "as it was told"


@scenario
async def test_what_another_pod_called_a_session_that_has_just_ended_is_not_told() -> None:
    async with lab() as at:
        raw = Refused(ErrorCode.GPU_LEASED, "~uid-2/secret holds it", holder="~uid-2/secret")
        told = at.broker._as_told(raw, TRAIN)
        assert told.code is ErrorCode.GPU_LEASED
        assert "secret" not in f"{told.message} {told.details}"
        assert "uid-2" not in f"{told.message} {told.details}"
        assert at.broker._as_told(raw, Owner(1, 1, 0)) is raw, "who administers the node may know"


@scenario
async def test_without_owners_no_pod_owns_a_gpu() -> None:
    async with lab() as at:
        assert (await at.ask("PUT", "/v1/sessions/a"))[0] == 200
        body = b'{"power_limit_watts": 150}'
        status, answer, _ = await at.ask("PUT", "/v1/sessions/a/gpus/GPU-1/power-limit", body)
        assert (status, answer["code"]) == (403, ErrorCode.NOT_OWNER)


@scenario
async def test_a_process_is_known_by_the_kernel_and_may_read_reports_as_administrator() -> None:
    async with lab(as_pods=False) as at:
        status, body, _ = await at.ask("GET", "/v1/reports")
        assert (status, body) == (200, [])
        status, body, _ = await at.ask("GET", "/v1/reports/uid-1")
        assert (status, body["code"]) == (404, ErrorCode.NOT_FOUND)
        status, body, _ = await at.ask("GET", "/v1/openapi.json")
        assert (status, body["openapi"]) == (200, "3.1.0")


# ---- readiness and options ----------------------------------------------------------


def test_readiness_names_all_that_is_missing() -> None:
    answers = ["", "no certificate", "no pods"]
    readiness = Readiness([lambda each=each: each for each in answers])  # type: ignore[misc]
    assert readiness.missing() == ["no certificate", "no pods"]


@pytest.mark.parametrize(
    ("note", "has_library", "words"),
    [
        ("", True, ()),
        ("no library", False, ("no library", "runtimeClass", "cdi (the same, and", "hostPath")),
        ("NVML shows none", True, ("shows none", "runtimeClass or cdi, where NVIDIA's")),
    ],
)
def test_a_node_that_should_have_gpus_is_told_what_to_try(
    note: str, has_library: bool, words: tuple[str, ...]
) -> None:
    sentence = gpus_expected(note, has_library=has_library)
    assert bool(sentence) == bool(words)
    assert all(word in sentence for word in words)


CLUSTER = ["--listen", ":1", "--tls-cert", "c", "--tls-key", "k", "--node-name", "n"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--socket"),
        *(
            (["--socket", "s", *option], f"{option[0]} is of use only with --listen")
            for option in (
                ["--operator-account", "ns:name"],
                ["--kube-api", "https://x"],
                ["--kube-token-file", "f"],
                ["--kube-ca-file", "f"],
            )
        ),
        ([*CLUSTER, "--pod-resources", "d", "--kube-token-file", "f"], "only with --kube-api"),
        ([*CLUSTER, "--pod-resources", "d", "--kube-ca-file", "f"], "only with --kube-api"),
        ([*CLUSTER, "--pod-resources", "d", "--kube-api", "10.0.0.1:6443"], "expected a URL"),
        (["--tls-cert", "c", "--socket", "s"], "--listen"),
        (CLUSTER, "--pod-resources"),
        (["--listen", ":1"], "--tls-cert"),
        ([*CLUSTER, "--pod-resources", "d", "--operator-account", "name"], "NAMESPACE:NAME"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse(["serve", "--state-dir", "d", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_outside_a_cluster_the_api_server_must_be_named(tmp_path: Path) -> None:
    options = ["--state-dir", str(tmp_path / "state"), *CLUSTER, "--pod-resources", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "zeus_agent.main", "serve", *options],
        env={name: os.environ[name] for name in os.environ if "KUBERNETES" not in name},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "--kube-api" in done.stderr


def test_on_one_machine_nothing_of_a_cluster_is_loaded() -> None:
    """It would cost memory and time to start."""
    program = (
        "import sys, zeus_agent.main\n"
        "print([m for m in ('aiohttp', 'grpc', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
