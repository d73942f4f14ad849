"""`kubectl zeus history`, `explain` and `report`: what the operator has put beside the ZeusJob."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from zeus_operator.cli.cluster_target import Target, cluster_options
from zeus_operator.cli.context import Output
from zeus_operator.cli.failures import CommandError, ExitCode
from zeus_operator.cli.showing import (
    explain_options,
    history_options,
    report_options,
    show_explanation,
    show_history,
    show_report,
)
from zeus_operator.cli.source import HistoryInCluster
from zeus_operator.history import config_map
from zeus_operator.history.config_map import Whose
from zeus_operator.history.document import ProjectedHistory, UnreadableHistory, read
from zeus_operator.kube import KubeError, NotFound, Object, path_of
from zeus_operator.records import JobRecord
from zeus_operator.status.text import cut

Command = TypeVar("Command", bound=Callable[..., Any])

_FORBIDDEN = 403
_MAX_NAMED = 400
"""Bytes of a name that may be anything."""


def _output(command: Command) -> Command:
    return click.option(
        "-o",
        "--output",
        type=click.Choice([each.value for each in Output]),
        default=Output.TEXT.value,
        show_default=True,
        help="How to print the result.",
    )(command)


@click.command()
@click.argument("name")
@history_options
@_output
@cluster_options
def history(target: Target, name: str, limit: int | None, kind: str | None, output: str) -> None:
    """List the attempts of NAME: batch size, outcome, energy, time and cost."""
    show_history(_source(target, name), limit, kind, is_json=output == Output.JSON)


@click.command()
@click.argument("name")
@explain_options
@_output
@cluster_options
def explain(target: Target, name: str, run: str | None, kind: str, output: str) -> None:
    """Say why an attempt of NAME has its batch size; without a number, the latest.

    The decision is also made again on the history; exit code 1 if it differs.
    """
    show_explanation(_source(target, name), run, kind, is_json=output == Output.JSON)


@click.command()
@click.argument("name")
@report_options
@_output
@cluster_options
def report(target: Target, name: str, out: Path | None, output: str) -> None:
    """Write one self-contained HTML page about NAME."""
    show_report(_source(target, name), out, is_json=output == Output.JSON)


def _source(target: Target, name: str) -> HistoryInCluster:
    """Return the history of a ZeusJob, as far as the operator has written it.

    Raises:
        CommandError: there is none that can be read; the text says what to do.
    """
    zeusjob = target.get(name)
    if (zeusjob.get("status") or {}).get("historyKibibytes") == 0:
        raise _failed(
            "the operator is set to write no histories (operator.settings.historyKibibytes of the "
            "chart is 0): this one is in its database alone. Runs and savings are in the status of "
            "the ZeusJob"
        )
    config_map_name = config_map.name_of(name)
    where = f"the ConfigMap {target.namespace}/{config_map_name}"
    try:
        found = target.client.get(path_of("v1", "configmaps", target.namespace, config_map_name))
    except NotFound:
        raise _failed(_why_absent(zeusjob, where)) from None
    except KubeError as error:
        if error.status != _FORBIDDEN:
            raise
        raise _failed(
            f"you may not read {where}, which holds the history: you need the right to `get` "
            f"`configmaps` in namespace {target.namespace} (the role `view` has it). The API "
            f"server says: {error.message}"
        ) from None
    return HistoryInCluster(_read(found, zeusjob, where))


def _read(found: Object, zeusjob: Object, where: str) -> ProjectedHistory:
    metadata = zeusjob["metadata"]
    match config_map.whose(found["metadata"], metadata["name"], metadata["uid"]):
        case Whose.STRANGER:
            raise _failed(
                f"{where} is not this ZeusJob's history but somebody else's; the operator does not "
                "touch it. Delete or rename it"
            )
        case Whose.FORMER:
            raise _failed(
                f"{where} is that of a ZeusJob of this name which was deleted; it is replaced once "
                "Kubernetes has collected it"
            )
        case Whose.OURS:
            pass
    try:
        packed = base64.b64decode((found.get("binaryData") or {})[config_map.KEY], validate=True)
        history = read(packed)
        # Whoever may edit the ConfigMap must not choose what is shown, or which file is written.
        why = _named_otherwise(history.job, metadata)
        if not why:
            return history
    except KeyError:
        why = f"it has no {config_map.KEY}"
    except binascii.Error as error:
        why = f"{config_map.KEY} is no base64: {error}"
    except UnreadableHistory as error:
        why = str(error)
    raise _failed(
        f"{where} can't be read: {why}. If somebody has changed it: delete it, and the operator "
        "makes it anew at the next run"
    )


def _named_otherwise(job: JobRecord, metadata: Mapping[str, Any]) -> str:
    """Return why the job of a history is not the ZeusJob beside which it is; "": it is."""
    if (job.namespace, job.name, job.uid) == tuple(
        metadata[name] for name in ("namespace", "name", "uid")
    ):
        return ""
    named = cut(f"{job.key} (uid {job.uid})", _MAX_NAMED)
    return f"it is the history of another ZeusJob, {named}"


def _why_absent(zeusjob: Object, where: str) -> str:
    """Return why there is no ConfigMap, from what the operator says of the ZeusJob."""
    status = zeusjob.get("status") or {}
    if not status:
        return "it has no history yet: the operator has not seen it"
    if not status.get("totals") and not status.get("active"):
        return "it has no recurrence yet"
    return (
        f"{where}, which holds the history, is not there. The operator makes it when a run starts "
        "or ends; if it stays away, see the Events of the ZeusJob (kubectl describe zj)"
    )


def _failed(message: str) -> CommandError:
    return CommandError(message, ExitCode.RUN_FAILED)
