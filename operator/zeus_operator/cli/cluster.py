"""`kubectl zeus`: ZeusJobs in a cluster, by the Kubernetes API and with the user's own rights."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import click

from zeus_operator import names
from zeus_operator.api.requests import MAX_RUNS, RequestError, RunRequest, parse_token
from zeus_operator.api.status import RunKind
from zeus_operator.api.types import Mode
from zeus_operator.cli.cluster_history import explain, history, report
from zeus_operator.cli.cluster_target import Target, cluster_options
from zeus_operator.cli.context import print_json, print_lines
from zeus_operator.cli.failures import CommandError, ExitCode, WrongInput
from zeus_operator.kube import Conflict, Object
from zeus_operator.records import RecurrenceKind
from zeus_operator.report import units
from zeus_operator.status.text import count

_TRIES = 5
_KEPT = 20
"""Requests that the annotation holds at most; those done long ago are dropped."""


def _fresh_id() -> str:
    return f"cli-{secrets.token_hex(6)}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="zeus-operator", prog_name="kubectl-zeus")
def main() -> None:
    """Look at ZeusJobs in the cluster, and ask something of them.

    Exit codes: 0 done; 1 the API server refused; 2 wrong option or name.
    """


@main.command()
@click.argument("name")
@click.option(
    "--recurrences",
    "runs",
    type=click.IntRange(1, MAX_RUNS),
    default=1,
    show_default=True,
    help="So many, one after the other.",
)
@click.option("--control", is_flag=True, help="Control runs: the default, to measure savings.")
@click.option(
    "--id",
    "token",
    help="Name of the request: the same name twice asks once. Default: a fresh one.",
)
@cluster_options
def run(target: Target, name: str, runs: int, control: bool, token: str | None) -> None:
    """Run the ZeusJob NAME now, beside its schedule."""
    kind = RecurrenceKind.CONTROL if control else RecurrenceKind.LEARNED
    request = RunRequest(_token(token), runs, kind)
    _ask(target, name, request)
    many = "1 recurrence" if runs == 1 else f"{runs} recurrences"
    click.echo(f"{target.namespace}/{name}: asked for {many} ({request.token}).")


def _ask(target: Target, name: str, request: RunRequest) -> None:
    """Add the request to those that stand there: the operator may not have seen them yet."""
    for _ in range(_TRIES):
        found = target.get(name)
        annotations = found["metadata"].get("annotations") or {}
        before = annotations.get(names.ANNOTATION_RUN, "")
        kept = [each for each in before.split(";") if each and each != str(request)][1 - _KEPT :]
        metadata = {
            "resourceVersion": found["metadata"]["resourceVersion"],
            "annotations": {names.ANNOTATION_RUN: ";".join([*kept, str(request)])},
        }
        try:
            target.client.merge(target.path(name), {"metadata": metadata})
            return
        except Conflict:
            continue  # somebody else has changed it in between
    raise CommandError(f"{name} is changed all the time; try again", ExitCode.BUSY)


@main.command()
@click.argument("name")
@cluster_options
def suspend(target: Target, name: str) -> None:
    """Let no new recurrence of NAME start. What runs goes on."""
    target.get(name)
    target.client.merge(target.path(name), {"spec": {"suspend": True}})
    click.echo(f"{target.namespace}/{name} suspended; what runs goes on.")


@main.command()
@click.argument("name")
@cluster_options
def resume(target: Target, name: str) -> None:
    """Let NAME start again: after `suspend`, or after a pause for repeated failures."""
    target.get(name)
    body = {
        "metadata": {"annotations": {names.ANNOTATION_RESUME: _fresh_id()}},
        "spec": {"suspend": False},
    }
    target.client.merge(target.path(name), body)
    click.echo(f"{target.namespace}/{name} resumed.")


@main.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cluster_options
def reset(target: Target, name: str, yes: bool) -> None:
    """Erase the history of NAME and what it has learned, once nothing of it runs."""
    target.get(name)
    question = f"Erase the history of {target.namespace}/{name} for good?"
    if not yes and not click.confirm(question, err=True):
        raise WrongInput("nothing was erased; give --yes to erase without being asked")
    target.annotate(name, names.ANNOTATION_RESET, _fresh_id())
    click.echo(f"{target.namespace}/{name}: its history is erased as soon as nothing of it runs.")


@main.command()
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@cluster_options
def status(target: Target, name: str | None, output: str) -> None:
    """Show how NAME stands; without it, all in the namespace."""
    found = [target.get(name)] if name else list(target.client.items(target.path()))
    if output == "json":
        print_json([{**item.get("status", {}), "name": item["metadata"]["name"]} for item in found])
    elif not found:
        click.echo(f"no ZeusJob in {target.namespace}")
    else:
        print_lines([line for item in found for line in _lines(item)])


def _lines(item: Object) -> Sequence[str]:
    """Return what `status` says of one ZeusJob."""
    status = item.get("status") or {}
    metadata = item["metadata"]
    lines = [f"{metadata['namespace']}/{metadata['name']}"]
    if "mode" in status:
        lines.append(f"  {'mode':<20} {_mode(item, status['mode'])}")
    for condition in status.get("conditions") or ():
        word = f"{condition['type']}: {condition['status']}"
        lines.append(f"  {word:<20} {condition['reason']}: {condition['message']}")
    if status.get("nextScheduleTime"):
        lines.append(f"  next run             {status['nextScheduleTime']}")
    lines += [f"  active               {_active(each)}" for each in status.get("active") or ()]
    lines += [f"  last run             {_ended(each)}" for each in (status.get("runs") or ())[:1]]
    for part in ("best", "savings", "recommendation"):
        sentence = (status.get(part) or {}).get("sentence")
        if sentence:
            lines.append(f"  {part:<20} {sentence}")
    if not status:
        lines.append("  the operator has not seen it yet")
    return lines


def _mode(item: Object, mode: str) -> str:
    """Return the mode that holds, and whether more is asked for."""
    asked = (item.get("spec") or {}).get("mode", Mode.OPTIMIZE.value)
    is_seen = item["status"].get("observedGeneration") == item["metadata"].get("generation")
    if asked == mode or not is_seen:
        return mode
    return f"{mode}; spec.mode is {asked}, and the operator allows no more here"


def _label(run: dict[str, Any]) -> str:
    """Return by which number `history` and `explain` have a recurrence, such as `default 2`."""
    kind = "default" if run.get("kind") == RunKind.CONTROL else "recurrence"
    return f"{kind} {run['number']}" if "number" in run else kind


def _ended(run: dict[str, Any]) -> str:
    """Return how a recurrence has ended."""
    size = f", batch size {run['batchSize']}" if "batchSize" in run else ""
    return f"{_label(run)}, {count(run['attempts'], 'attempt')}{size}: {run['outcome']}"


def _active(active: dict[str, Any]) -> str:
    """Return how far a run is, as far as its agent has told."""
    parts = [
        f"{_label(active)}, attempt {active['attempt']} of {active['maxAttempts']}: "
        f"batch size {active.get('batchSize', '?')}",
        active["state"],
    ]
    if "epochs" in active:
        parts.append(f"epoch {active['epochs']}")
    if "energyJoules" in active:
        parts.append(units.joules(float(active["energyJoules"])))
    if "lastMetric" in active:
        parts.append(f"metric {active['lastMetric']}")
    return ", ".join(parts)


def _token(text: str | None) -> str:
    try:
        return parse_token(text) if text is not None else _fresh_id()
    except RequestError as error:
        raise WrongInput(str(error)) from None


for _command in (history, explain, report):
    main.add_command(_command)
