"""Runs training scripts of several processes, each with a simulated GPU of its own."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.forked_scripts import Scripts
from tests.support.runtime_lab import ROOT, TICK_SECONDS, RuntimeLab
from zeus_runtime.protocol import Decision, Result

SCRIPT = ROOT / "tests" / "support" / "team_script.py"
END_SECONDS = 120


@dataclass
class Node:
    """A machine of its own, with an agent if it was started.

    Args:
        prefix: what runs a command on it, such as `ip netns exec NAME`.
        variables: of its processes alone.
    """

    lab: RuntimeLab
    gpus: int
    prefix: Sequence[str] = ()
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MemberEnded:
    """How one process ended."""

    exit_code: int
    output: str
    errors: str

    @property
    def seen(self) -> dict[str, Any]:
        """What it told of itself."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        assert lines, self.output + self.errors
        told: dict[str, Any] = json.loads(lines[-1])
        return told


@dataclass(frozen=True)
class TeamEnded:
    """How a run of several processes ended."""

    members: tuple[MemberEnded, ...]
    result: Result | None

    @property
    def exit_codes(self) -> list[int]:
        """By rank."""
        return [member.exit_code for member in self.members]

    @property
    def errors(self) -> str:
        """All that was said."""
        return "\n".join(f"rank {n}:\n{m.errors}" for n, m in enumerate(self.members))


class TeamProcesses:
    """The processes of one run, by rank."""

    def __init__(self, lab: RuntimeLab, processes: list[subprocess.Popen[str]]) -> None:
        self.lab = lab
        self.processes = processes

    def wait_for_pause(self, rank: int) -> None:
        """Wait until a rank pauses."""
        process = self.processes[rank]
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "paused\n", line + self._all_errors()

    def go_on(self, rank: int) -> None:
        """Let it go on."""
        RuntimeLab.go_on(self.processes[rank])

    def end(self) -> TeamEnded:
        """Wait for the end of all."""
        members = []
        for process in self.processes:
            output, errors = process.communicate(timeout=END_SECONDS)
            members.append(MemberEnded(process.returncode, output, errors))
        return TeamEnded(tuple(members), self.lab.result())

    def kill(self) -> None:
        """End what is left."""
        for process in self.processes:
            process.kill()
            process.communicate(timeout=END_SECONDS)

    def _all_errors(self) -> str:
        self.kill()
        return "".join(p.stderr.read() if p.stderr else "" for p in self.processes)


def start_team(
    nodes: Sequence[Node],
    plan: dict[str, Any],
    decision: Decision | None,
    *,
    command: Sequence[str] = (),
    ranked: str = "",
    agent: bool = True,
    **variables: str,
) -> TeamProcesses:
    """Start one process for each GPU of each node, ranks in that order.

    Args:
        command: the script and its arguments; empty: `team_script.py` with the plan.
        ranked: one more argument, with `{rank}` for the rank.
    """
    processes = [
        subprocess.Popen(
            [*node.prefix, sys.executable, *words],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node, (words, environ) in zip(
            [node for node in nodes for _ in range(node.gpus)],
            launches(
                nodes, plan, decision, command=command, ranked=ranked, agent=agent, **variables
            ),
            strict=True,
        )
    ]
    return TeamProcesses(nodes[0].lab, processes)


def launches(
    nodes: Sequence[Node],
    plan: dict[str, Any],
    decision: Decision | None,
    *,
    command: Sequence[str] = (),
    ranked: str = "",
    agent: bool = True,
    **variables: str,
) -> list[tuple[list[str], dict[str, str]]]:
    """Return of each process, by rank, the script with its arguments, and the environment."""
    store = nodes[0].lab.folder / "team-store"
    store.unlink(missing_ok=True)
    size = sum(node.gpus for node in nodes)
    found: list[tuple[list[str], dict[str, str]]] = []
    for node in nodes:
        for local_rank in range(node.gpus):
            environ = node.lab.environ(decision, agent=agent)
            environ |= {
                "RANK": str(len(found)),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(local_rank),
                "GPU_INDEX": str(local_rank),
                "TEAM_STORE": str(store),
                "OMP_NUM_THREADS": "1",
                **node.variables,
                **variables,
            }
            words = [*(command or (str(SCRIPT), json.dumps(plan)))]
            if ranked:
                words.append(ranked.format(rank=len(found)))
            found.append((words, environ))
    return found


def run_team(
    nodes: Sequence[Node],
    plan: dict[str, Any],
    decision: Decision | None,
    *,
    scripts: Scripts | None = None,
    **more: Any,
) -> TeamEnded:
    """Run the processes to their end.

    Args:
        scripts: starts them, having imported what takes them long.
    """
    if scripts is None:
        return start_team(nodes, plan, decision, **more).end()
    started = [
        scripts.start(words, environ) for words, environ in launches(nodes, plan, decision, **more)
    ]
    ended = [script.end() for script in started]
    members = tuple(MemberEnded(each.exit_code, each.output, each.errors) for each in ended)
    return TeamEnded(members, nodes[0].lab.result())


def energy_is_that_of(ended: TeamEnded, members: Sequence[MemberEnded]) -> bool:
    """Whether the run's energy is what the GPUs of some used between its begin and its end.

    A counter stands still for a tick, at each end.
    """
    assert ended.result is not None, ended.errors
    assert ended.result.energy_joules is not None, ended.errors
    tick = ended.result.max_power_watts * TICK_SECONDS
    within = sum(float(member.seen["joules_within"]) for member in members)
    around = sum(float(member.seen["joules_around"]) for member in members)
    return within - 2.0 * tick <= ended.result.energy_joules <= around + 2.0 * tick


Limits = tuple[float, ...]
"""Of all GPUs, by rank."""


def same_everywhere(limits: Limits) -> bool:
    """Whether GPUs of one model are held at one limit."""
    return len(set(limits)) == 1


def odd_limits(
    ended: TeamEnded, is_one: Callable[[Limits], bool] = same_everywhere
) -> list[Limits]:
    """Return the limits seen that were neither one limit nor on the way from one to the next.

    How long a change takes is not asked: each GPU has an agent's thread of its own.  What was
    seen last must be one limit.
    """
    by_rank = [member.seen["limits"] for member in ended.members]
    seen = [tuple(watts for _, _, watts in each) for each in zip(*by_rank, strict=True)]
    states = [seen[0], *(now for before, now in itertools.pairwise(seen) if now != before)]
    odd = []
    last, waiting = states[0], list[Limits]()
    for state in states[1:]:
        if not is_one(state):
            waiting.append(state)
            continue
        odd += [each for each in waiting if not _is_between(last, each, state)]
        last, waiting = state, []
    return odd + waiting


def limits_held(
    ended: TeamEnded, is_one: Callable[[Limits], bool] = same_everywhere
) -> set[Limits]:
    """Return all that was held by all at once."""
    by_rank = [member.seen["limits"] for member in ended.members]
    seen = {tuple(watts for _, _, watts in each) for each in zip(*by_rank, strict=True)}
    return {limits for limits in seen if is_one(limits)}


def _is_between(before: Limits, limits: Limits, after: Limits) -> bool:
    return all(own in pair for own, *pair in zip(limits, before, after, strict=True))
