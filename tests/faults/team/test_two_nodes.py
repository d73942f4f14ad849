"""Two machines, each with an agent and GPUs of its own, joined by a network; needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtime_lab import RuntimeLab, decided
from tests.support.team_lab import (
    Node,
    energy_is_that_of,
    limits_held,
    odd_limits,
    run_team,
    start_team,
)
from zeus_runtime.protocol import Outcome

PLAN = {"metrics": [0.1] * 11 + [0.95], "steps": 80}


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        reason = "network namespaces need root and iproute2"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    names = [f"zeus-team-{os.getpid()}-{number}" for number in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip(
            "-n",
            names[0],
            "link",
            "add",
            "team0",
            "type",
            "veth",
            "peer",
            "team0",
            "netns",
            names[1],
        )
        for number, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.251.7.{number + 1}/24", "dev", "team0")
            ip("-n", name, "link", "set", "team0", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def nodes(namespaces: list[str], tmp_path: Path) -> Iterator[list[Node]]:
    """Two GPUs on each."""
    made = []
    for number, name in enumerate(namespaces):
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        lab = RuntimeLab(folder, "V100", "V100", seed=number)  # of other UUIDs
        lab.start_agent()
        made.append(Node(lab, 2, ("ip", "netns", "exec", name), {"GLOO_SOCKET_IFNAME": "team0"}))
    yield made
    for node in made:
        node.lab.close()


def test_a_run_on_two_machines_holds_leases_on_both_and_sums_their_energy(
    nodes: list[Node],
) -> None:
    ended = run_team(nodes, PLAN, decided())
    assert ended.exit_codes == [0] * 4, ended.errors
    result = ended.result
    assert result is not None
    assert result.gpu_count == 4
    assert energy_is_that_of(ended, ended.members)
    assert result.power_limit_watts is not None
    assert odd_limits(ended) == []
    assert len(limits_held(ended)) >= 3, "several were compared"
    for node in nodes:
        node.lab.wait_until_restored()


def test_the_first_process_of_the_other_machine_keeps_the_result_too(nodes: list[Node]) -> None:
    ended = run_team(nodes, PLAN, decided())
    own, copy = ended.result, nodes[1].lab.result()
    assert own is not None, ended.errors
    assert copy is not None
    assert (copy.epochs, copy.outcome, copy.milestones) == (
        12,
        Outcome.REACHED.value,
        own.milestones,
    )
    assert copy.energy_joules == pytest.approx(own.energy_joules, rel=0.02)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_machine_that_is_lost_ends_the_run_and_limits_come_back_on_both(
    nodes: list[Node], killed: int
) -> None:
    rank = 2 * killed + 1
    team = start_team(nodes, {**PLAN, "pause": {"rank": rank, "at": "step 45"}}, decided())
    team.wait_for_pause(rank)
    for lost in (2 * killed, 2 * killed + 1):
        team.processes[lost].kill()
    ended = team.end()
    others = [code for n, code in enumerate(ended.exit_codes) if n // 2 != killed]
    assert all(code not in (0, None) for code in others), ended.errors
    for node in nodes:
        node.lab.wait_until_restored()
