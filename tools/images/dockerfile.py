"""What an image of a Dockerfile is made of: files of the tree and base images.  Pure.

Enough of the format for our own: FROM, COPY and ARG, with lines that go on after a backslash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BASE_ARGUMENT = re.compile(r"\$\{(\w+)\}")


class DockerfileError(ValueError):
    """The Dockerfile is not what this module reads; the text names the line or stage."""


@dataclass(frozen=True)
class Stage:
    """One stage of the build.

    Attributes:
        base: what FROM names: another stage, `scratch`, or `${ARGUMENT}` of a base image.
        sources: files and folders of the tree that are copied in.
        stages: other stages that are copied from.
    """

    base: str
    sources: tuple[str, ...]
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Ingredients:
    """What an image is made of.

    Attributes:
        sources: files and folders of the tree.
        base_arguments: build arguments that name its base images.
    """

    sources: tuple[str, ...]
    base_arguments: tuple[str, ...]


def parse(text: str) -> dict[str, Stage]:
    """Return the stages by name.

    Raises:
        DockerfileError: a stage has no name, or a line is not read here.
    """
    stages: dict[str, Stage] = {}
    name = ""
    for instruction in _instructions(text):
        word, *arguments = instruction.split()
        if word == "FROM":
            if len(arguments) != 3 or arguments[1] != "AS":
                raise DockerfileError(f"expected `FROM base AS name`, not `{instruction}`")
            base, _, name = arguments
            stages[name] = Stage(base, (), ())
        elif word == "ADD":
            raise DockerfileError(f"ADD is not read here, use COPY: `{instruction}`")
        elif word == "COPY":
            stages[name] = _with_copy(stages[name], arguments)
    return stages


def ingredients(stages: dict[str, Stage], target: str) -> Ingredients:
    """Return what the image of `target` is made of, through all stages behind it.

    Raises:
        DockerfileError: there is no such stage.
    """
    if target not in stages:
        raise DockerfileError(f"no stage {target!r}; there are {', '.join(stages)}")
    sources: set[str] = set()
    arguments: set[str] = set()
    seen: set[str] = set()
    waiting = [target]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        stage = stages[name]
        sources.update(stage.sources)
        arguments.update(_BASE_ARGUMENT.findall(stage.base))
        waiting.extend(other for other in (stage.base, *stage.stages) if other in stages)
    return Ingredients(tuple(sorted(sources)), tuple(sorted(arguments)))


def _instructions(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def _with_copy(stage: Stage, arguments: list[str]) -> Stage:
    options = [argument for argument in arguments if argument.startswith("--")]
    paths = tuple(argument for argument in arguments if not argument.startswith("--"))[:-1]
    origins = tuple(option[len("--from=") :] for option in options if option.startswith("--from="))
    if origins:
        return Stage(stage.base, stage.sources, stage.stages + origins)
    return Stage(stage.base, stage.sources + paths, stage.stages)
