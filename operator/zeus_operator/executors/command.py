"""The environment of a run, and the command line of a local one.  Pure.

On one machine there is no image: `image`, `workingDir`, volumes and the other containers of the
pod are ignored, the container's `command` and `args` run in the folder of the manifest with the
environment of the program that started them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zeus_operator.api.expand import expand_all, expand_environment
from zeus_operator.api.template import TrainingContainer
from zeus_operator.records import AttemptRecord, JobRecord
from zeus_runtime import protocol

_PYTHON_NAMES = frozenset({"python", "python3"})
_LIBRARY_PATH = "LD_LIBRARY_PATH"


@dataclass(frozen=True)
class Command:
    """What to execute, with which environment."""

    arguments: tuple[str, ...]
    environment: dict[str, str]


def injected_environment(
    job: JobRecord,
    attempt: AttemptRecord,
    decision: protocol.Decision,
    *,
    result_path: str | Path,
    agent_address: str | None,
    result_bytes: int = protocol.RESULT_DEFAULT_BYTES,
) -> dict[str, str]:
    """Return the variables of `zeus_runtime.protocol` for one execution, here or in a pod.

    Args:
        result_bytes: constant length of the result.

    Raises:
        protocol.ProtocolError: the decision is longer than fits into an environment.
    """
    variables = {
        protocol.ENV_JOB: job.key,
        protocol.ENV_RECURRENCE: str(attempt.recurrence_id),
        protocol.ENV_ATTEMPT: str(attempt.number),
        protocol.ENV_BATCH_SIZE: str(decision.batch_size),
        protocol.ENV_DECISION: decision.to_json(),
        protocol.ENV_RESULT_PATH: str(result_path),
        protocol.ENV_RESULT_BYTES: str(result_bytes),
    }
    if decision.learning_rate is not None:
        variables[protocol.ENV_LEARNING_RATE] = f"{decision.learning_rate:.12g}"
    if agent_address is not None:
        variables[protocol.ENV_AGENT] = agent_address
    return variables


def literal(text: str) -> str:
    """Return what Kubernetes' expansion turns into `text`: a `$` in it is only a `$`."""
    return text.replace("$", "$$")


def command(
    container: TrainingContainer,
    injected: Mapping[str, str],
    inherited: Mapping[str, str],
    *,
    interpreter: str = sys.executable,
) -> Command:
    """Return what `container` runs.

    Args:
        injected: our own variables; they come first, so that every `$(ZEUS_…)` sees them.
        inherited: the environment of the machine.  What it has of ours (a run started inside
            another run) is left out, what the container sets wins.
        interpreter: stands in for `python` and `python3`, and its folder comes first in PATH.
    """
    entries = [(name, literal(value)) for name, value in injected.items()]
    entries.extend((entry.name, entry.value) for entry in container.env if entry.value is not None)
    own = expand_environment(entries)
    arguments = expand_all((*container.command, *container.args), own)
    if arguments[0] in _PYTHON_NAMES:
        arguments[0] = interpreter
    environment = {
        name: value
        for name, value in inherited.items()
        if name not in protocol.INJECTED_ENVIRONMENT
    }
    environment["PATH"] = _joined(str(Path(interpreter).parent), environment.get("PATH", ""))
    if _LIBRARY_PATH in own and environment.get(_LIBRARY_PATH):
        # The machine's folders stay: a simulated GPU's driver is found through them.
        own[_LIBRARY_PATH] = _joined(own[_LIBRARY_PATH], environment[_LIBRARY_PATH])
    environment.update(own)
    # A log that is followed live: without this, Python keeps its output back in a block buffer.
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return Command(tuple(arguments), environment)


def _joined(first: str, rest: str) -> str:
    return f"{first}:{rest}" if rest else first
