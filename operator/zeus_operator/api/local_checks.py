"""What a ZeusJob needs to run on one machine, where there is no image and no API server."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from zeus_operator.api.template import (
    SPEC_PATH,
    Problem,
    TemplateError,
    TrainingContainer,
    child_spec,
    training_container,
)
from zeus_operator.api.types import ZeusJob
from zeus_operator.workloads.batch import is_one_pod
from zeus_operator.workloads.registry import JOB

_PYTHON = re.compile(r"^python(3(\.\d+)?)?$")
_PYTHON_OPTIONS_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})
_SHELLS = frozenset({"sh", "bash", "dash"})
_LAUNCHERS = frozenset({"torchrun", "accelerate", "deepspeed"})
_LAUNCHING_MODULES = frozenset({"torch.distributed.run", "accelerate.commands.launch"})

Word = tuple[str, str]
"""A word of the command line, and the path of the field that it stands in."""


def local_problems(job: ZeusJob, directory: Path, search_path: str | None = None) -> list[Problem]:
    """Return what keeps `job` from running as a process in `directory`.

    Args:
        directory: the manifest's folder, in which the command is started.
        search_path: where programs are looked for; None: beside the interpreter, then PATH.
    """
    kind = job.spec.workload.kind
    if kind != JOB.kind:
        return [
            Problem(
                "spec.workload.kind",
                f"{kind} runs in a cluster only; on one machine use kind {JOB.kind}, with the "
                "container that trains",
            )
        ]
    if not is_one_pod(child_spec(job.spec)):
        return [
            Problem(
                f"{SPEC_PATH}.parallelism",
                "must be 1 or left out on one machine: several pods run in a cluster only",
            )
        ]
    try:
        container = training_container(job.spec)
    except TemplateError as error:
        return [error.problem]
    return [*_environment(container), *_command(container, directory, search_path)]


def _environment(container: TrainingContainer) -> Iterator[Problem]:
    for index, entry in enumerate(container.env):
        if entry.value is None:
            yield Problem(
                f"{container.path}.env[{index}].valueFrom",
                "can be resolved only in a cluster; for one machine give `value`",
            )
    if container.env_from:
        yield Problem(
            f"{container.path}.envFrom",
            "can be resolved only in a cluster; for one machine list the variables in `env`",
        )


def _command(
    container: TrainingContainer, directory: Path, search_path: str | None
) -> Iterator[Problem]:
    words: list[Word] = [
        (word, f"{container.path}.{key}[{index}]")
        for key, values in (("command", container.command), ("args", container.args))
        for index, word in enumerate(values)
    ]
    if not container.command:
        yield Problem(
            f"{container.path}.command",
            "is required on one machine, where the image and its entry point are not used; "
            'for instance ["python", "train.py"]',
        )
        return
    program, path = words[0]
    if "$(" in program:
        return
    if not _PYTHON.match(program):
        reason = _program_missing(program, directory, search_path)
        if reason:
            yield Problem(path, reason)
            return
    script = _script(words)
    if script is not None and "$(" not in script[0] and not (directory / script[0]).is_file():
        yield Problem(script[1], f"{script[0]}: no such file in {directory}")


def _program_missing(program: str, directory: Path, search_path: str | None) -> str:
    if "/" in program:
        file = directory / program
        if not file.is_file():
            return f"{program}: no such file in {directory}"
        return "" if os.access(file, os.X_OK) else f"{program}: is not executable (chmod +x)"
    if search_path is None:
        # Programs beside the interpreter come first for the run, too: an environment need not be
        # activated.
        own = str(Path(sys.executable).parent)
        search_path = os.pathsep.join((own, os.environ.get("PATH", os.defpath)))
    if shutil.which(program, path=search_path) is None:
        return f"{program}: no such program on PATH"
    return ""


def _script(words: Sequence[Word]) -> Word | None:
    """Return the script that an interpreter or launcher is told to run, if it is one of a file."""
    program = Path(words[0][0]).name
    if _PYTHON.match(program):
        called = [word for word, _ in words[1:3]]
        if called[:1] == ["-m"] and _LAUNCHING_MODULES.intersection(called[1:]):
            return next((word for word in words[3:] if word[0].endswith(".py")), None)
        return _first_operand(words[1:], _PYTHON_OPTIONS_WITH_VALUE, ends=("-m", "-c", "-"))
    if program in _SHELLS:
        return _first_operand(words[1:], frozenset({"-o", "-O"}), ends=("-c", "-s"))
    if program in _LAUNCHERS:
        return next((word for word in words[1:] if word[0].endswith(".py")), None)
    return None


def _first_operand(
    words: Sequence[Word], with_value: frozenset[str], ends: Sequence[str]
) -> Word | None:
    """Return the first word that is no option; None where an option of `ends` comes before it."""
    skip = False
    for word in words:
        text = word[0]
        if skip:
            skip = False
        elif text in ends or (len(text) > 2 and text[:2] in ends and not text.startswith("--")):
            return None
        elif text in with_value:
            skip = True
        elif not text.startswith("-"):
            return word
    return None
