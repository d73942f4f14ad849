"""What every command shares: its options, the store, and how errors become exit codes."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from zeus_operator.api.manifest import ManifestError
from zeus_operator.cli.failures import CommandError, ExitCode, WrongInput
from zeus_operator.cli.tables import printable
from zeus_operator.cli.views import to_json
from zeus_operator.executors.base import ChildCollision
from zeus_operator.executors.local import LocalExecutorError
from zeus_operator.local.gpu import GpuError
from zeus_operator.local.home import Home, HomeError
from zeus_operator.local.services import open_store
from zeus_operator.records import JobRecord
from zeus_operator.store.postmaster import EmbeddedPostgresError
from zeus_operator.store.store import JobBusy, Store, StoreError

P = ParamSpec("P")
R = TypeVar("R")


class Output(enum.StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Settings:
    """The options that every command has."""

    home: Home
    output: Output

    @property
    def is_json(self) -> bool:
        """Whether a program reads what is printed."""
        return self.output is Output.JSON


def command_options(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command `--home` and `-o`, hand it `Settings`, and report its errors."""

    @click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the history. Default: ZEUS_HOME, else the user's folder for state.",
    )
    @click.option(
        "-o",
        "--output",
        type=click.Choice([o.value for o in Output]),
        default=Output.TEXT.value,
        show_default=True,
        help="How to print the result.",
    )
    @functools.wraps(function)
    def wrapper(*args: Any, home: Path | None, output: str, **kwargs: Any) -> R:
        with errors_reported():
            settings = Settings(Home.find(home), Output(output))
            return function(settings, *args, **kwargs)

    return wrapper


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turn an error that the user can act on into lines on stderr and an exit code."""
    try:
        yield
    except ManifestError as error:
        _fail([str(problem) for problem in error.problems], ExitCode.WRONG_INPUT)
    except CommandError as error:
        _fail([str(error)], error.code)
    except (GpuError, HomeError) as error:
        _fail([str(error)], ExitCode.WRONG_INPUT)
    except JobBusy as error:
        _fail([f"{error}; wait until it has ended, or stop it"], ExitCode.BUSY)
    except (StoreError, EmbeddedPostgresError) as error:
        _fail([f"the database can't be used: {error}"], ExitCode.STORE_UNAVAILABLE)
    except (LocalExecutorError, ChildCollision) as error:
        _fail([str(error)], ExitCode.RUN_FAILED)
    except KeyboardInterrupt:
        _fail(["interrupted"], ExitCode.INTERRUPTED)


def _fail(messages: list[str], code: ExitCode) -> None:
    for message in messages:
        click.echo(" ".join(printable(message).split()), err=True)
    raise click.exceptions.Exit(int(code))


@contextmanager
def job_in_store(
    settings: Settings, name: str, *, or_deleted: bool = False
) -> Iterator[tuple[Store, JobRecord]]:
    """Open the store and find the job.

    Args:
        settings: of the command.
        name: `name` or `namespace/name`.
        or_deleted: whether a job that was deleted will do where none lives.

    Raises:
        WrongInput: there is no such job; the text names those there are.
    """
    namespace, _, short = name.rpartition("/")
    with open_store(settings.home) as store:
        find = store.latest_job if or_deleted else store.job
        job = find(namespace or "default", short)
        if job is None:
            known = ", ".join(record.key for record in store.jobs()) or "none yet"
            raise WrongInput(f"there is no job {namespace or 'default'}/{short}; known: {known}")
        yield store, job


def print_json(value: Any) -> None:
    """Print one JSON object."""
    click.echo(to_json(value, indent=2))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text, whatever is in them."""
    click.echo("\n".join(map(printable, lines)))
