"""The lines of `docs/how-to/power-limits-for-any-pod.md`, as they stand there, in a pod."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.cluster_node import ClusterNode
from tests.support.eventually import eventually
from tests.support.runtime_lab import ROOT
from zeus_operator.names import AGENT_ACCESS_ENABLED, LABEL_AGENT_ACCESS
from zeus_operator.trust.objects import CA_CERTIFICATES, CONFIG_MAP
from zeus_runtime.agent_transport import DEFAULT_TOKEN_FILE
from zeus_runtime.protocol import AGENT_AUDIENCE

PAGE = (ROOT / "docs" / "how-to" / "power-limits-for-any-pod.md").read_text()
WATTS = 150.0

NVIDIA_SMI = f"""#!{sys.executable}
import pynvml, sys
assert sys.argv[1:] == ["--query-gpu=uuid", "--format=csv,noheader"], sys.argv
pynvml.nvmlInit()
for index in range(pynvml.nvmlDeviceGetCount()):
    print(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
"""


def block(language: str, having: str) -> str:
    """Return the page's one block of code in a language that has some text in it."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (only,) = [each for each in found if having in each]
    return str(only)


def with_these(text: str, changes: dict[str, str]) -> str:
    """Return the lines of the page with what differs here; each must be there, once."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old}: {text.count(old)} times"
        text = text.replace(old, new)
    return text


class Pod:
    """A pod on the node, and what is mounted into it."""

    def __init__(self, node: ClusterNode, *gpu_uuids: str) -> None:
        self.node = node
        self.pod = node.pod("notebook", *gpu_uuids)
        self.secrets = node.folder / "secrets"
        self.secrets.mkdir()
        (self.secrets / "agent-token").write_text(self.pod.token_file.read_text())
        (self.secrets / "ca.crt").write_text(node.ca)
        programs = node.folder / "programs"
        programs.mkdir()
        (programs / "nvidia-smi").write_text(NVIDIA_SMI)
        (programs / "nvidia-smi").chmod(0o755)
        self.environment = {
            **node.environment,
            "PATH": f"{programs}:{node.environment['PATH']}",
            "GPU_SIM_VISIBLE": ",".join(gpu_uuids),  # what the container sees
            "https_proxy": "http://127.0.0.1:9",
        }

    def shell(self) -> str:
        return with_these(
            block("sh", "curl"),
            {
                "https://zeus-agent.zeus-system.svc:8443": self.node.url,
                "/var/run/secrets/zeus.energy": str(self.secrets),
                '"$GPU" 250': f'"$GPU" {WATTS:g}',
                "sleep 15": "sleep 1",
                "python train.py": "echo trains; read -r _",
            },
        )

    def python(self) -> str:
        host, port = self.node.url.removeprefix("https://").split(":")
        lines = with_these(
            block("python", "http.client"),
            {
                '"zeus-agent.zeus-system.svc"': f'"{host}"',
                "8443": port,
                "/var/run/secrets/zeus.energy": str(self.secrets),
                '("GPU-...", 250)': f'("{self.node.uuids[1]}", {WATTS:g})',
            },
        )
        lines = lines.replace("time.sleep(10)", "time.sleep(1)")
        return lines + "print('trains', flush=True)\ninput()\n"

    @contextmanager
    def program(self, language: str) -> Iterator[subprocess.Popen[str]]:
        """Run the lines while something trains."""
        commands = {
            "sh": ["sh", "-c", self.shell()],
            "bash": ["bash", "-c", self.shell()],
            "python": [sys.executable, "-c", self.python()],
        }
        process = subprocess.Popen(
            commands[language],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()

    @property
    def limit(self) -> float:
        return self.node.limit(self.node.uuids[1])


@pytest.fixture
def node() -> Iterator[ClusterNode]:
    # Not under pytest's folder: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        made = ClusterNode(Path(folder))
        try:
            made.start_agent()
            yield made
        finally:
            made.close()


def test_there_are_ten_lines_for_a_shell() -> None:
    assert len(block("sh", "curl").splitlines()) <= 10


@pytest.mark.parametrize("language", ["sh", "bash", "python"])
def test_the_lines_hold_a_limit_while_the_program_runs_and_after_the_agent_was_away(
    node: ClusterNode, language: str
) -> None:
    pod = Pod(node, node.uuids[1])
    with pod.program(language):
        eventually(lambda: pod.limit == WATTS, "the limit is set")
        node.stop_agent(signal.SIGTERM)
        assert pod.limit == ADMIN_CAP_WATTS
        node.start_agent("--listen", f"127.0.0.1:{node.url.rpartition(':')[2]}")
        eventually(lambda: pod.limit == WATTS, "the limit is set again")
    node.wait_until_restored()


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_lines_go_on_when_the_agent_refuses(node: ClusterNode, language: str) -> None:
    pod = Pod(node, node.uuids[1])
    node.kubelet.take("team", "notebook")
    node.kubelet.give("team", "notebook")  # without a GPU
    node.kubelet.give("team", "another", {"nvidia.com/gpu": [node.uuids[1]]})
    with pod.program(language) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2)]
        assert "trains\n" in said
        assert any("403" in line or "not_owner" in line for line in said), said
        assert process.poll() is None
        assert pod.limit == ADMIN_CAP_WATTS


def test_the_shell_does_not_show_the_token_in_a_command_line() -> None:
    lines = block("sh", "curl")
    assert '-H "Authorization' not in lines
    assert lines.index("Authorization") < lines.index("curl ")


def test_the_label_of_the_page_is_the_one_that_the_operator_looks_for() -> None:
    assert f" {LABEL_AGENT_ACCESS}={AGENT_ACCESS_ENABLED}\n" in block("sh", "kubectl label")


def test_the_pod_of_the_page_mounts_what_the_operator_makes_where_the_runtime_looks() -> None:
    spec: dict[str, Any] = yaml.safe_load(block("yaml", "volumes"))["spec"]
    (mount,) = spec["containers"][0]["volumeMounts"]
    (volume,) = spec["volumes"]
    token, trust = volume["projected"]["sources"]
    assert mount["name"] == volume["name"]
    assert f"{mount['mountPath']}/{token['serviceAccountToken']['path']}" == DEFAULT_TOKEN_FILE
    assert token["serviceAccountToken"]["audience"] == AGENT_AUDIENCE
    assert trust["configMap"] == {
        "name": CONFIG_MAP,
        "items": [{"key": CA_CERTIFICATES, "path": "ca.crt"}],
    }
