"""`kubectl zeus`: ZeusJobs in a cluster, by the Kubernetes API and with the user's own rights."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import click
from kubernetes import config
from kubernetes.client import Configuration
from kubernetes.config import ConfigException

from zeus_operator import names
from zeus_operator.api.requests import MAX_RUNS, RequestError, RunRequest, parse_token
from zeus_operator.cli.context import errors_reported, print_json, print_lines
from zeus_operator.cli.failures import CommandError, ExitCode, WrongInput
from zeus_operator.kube import Conflict, KubeClient, KubeError, NotFound, Object, path_of
from zeus_operator.records import RecurrenceKind

P = ParamSpec("P")
R = TypeVar("R")

_TRIES = 5
_KEPT = 20
"""Requests that the annotation holds at most; those done long ago are dropped."""


@dataclass(frozen=True)
class Target:
    """Where the ZeusJobs are.

    Args:
        client: with the rights of the user's kubeconfig.
    """

    client: KubeClient
    namespace: str

    def path(self, name: str = "") -> str:
        """Return the path of a ZeusJob, or of all in the namespace."""
        return path_of(names.API_VERSION, names.PLURAL, self.namespace, name)

    def get(self, name: str) -> Object:
        """Return the ZeusJob.

        Raises:
            WrongInput: there is none; the text names those there are.
        """
        try:
            return self.client.get(self.path(name))
        except NotFound:
            known = [item["metadata"]["name"] for item in self.client.items(self.path())]
            listed = ", ".join(known) or "none yet"
            raise WrongInput(
                f"there is no ZeusJob {self.namespace}/{name}; in this namespace: {listed}"
            ) from None

    def annotate(self, name: str, annotation: str, value: str) -> None:
        """Set one annotation of the ZeusJob."""
        self.get(name)
        self.client.merge(self.path(name), {"metadata": {"annotations": {annotation: value}}})


def cluster_options(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command `-n`, `--context` and `--kubeconfig`, and hand it a `Target`."""

    @click.option("-n", "--namespace", help="Namespace; default: that of the kubeconfig's context.")
    @click.option("--context", help="Context of the kubeconfig; default: its current one.")
    @click.option("--kubeconfig", help="Default: KUBECONFIG, else ~/.kube/config.")
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        namespace: str | None,
        context: str | None,
        kubeconfig: str | None,
        **kwargs: Any,
    ) -> R:
        with errors_reported():
            try:
                target = _target(namespace, context, kubeconfig)
                return function(target, *args, **kwargs)
            except KubeError as error:
                raise CommandError(error.message, ExitCode.RUN_FAILED) from error

    return wrapper


def _target(namespace: str | None, context: str | None, kubeconfig: str | None) -> Target:
    configuration = Configuration()
    try:
        config.load_kube_config(kubeconfig, context, configuration)
        contexts, active = config.list_kube_config_contexts(kubeconfig)
    except ConfigException as error:
        raise WrongInput(f"no way to the cluster: {error}") from None
    named = next((each for each in contexts if each["name"] == context), active)
    found = namespace or named["context"].get("namespace") or "default"
    return Target(KubeClient(configuration, user_agent="kubectl-zeus"), found)


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
    for condition in status.get("conditions") or ():
        word = f"{condition['type']}: {condition['status']}"
        lines.append(f"  {word:<20} {condition['reason']}: {condition['message']}")
    if status.get("nextScheduleTime"):
        lines.append(f"  next run             {status['nextScheduleTime']}")
    lines += [
        f"  active               attempt {active['attempt']} of {active['maxAttempts']}: "
        f"batch size {active.get('batchSize', '?')}, {active['state']}"
        for active in status.get("active") or ()
    ]
    for part in ("best", "savings", "recommendation"):
        sentence = (status.get(part) or {}).get("sentence")
        if sentence:
            lines.append(f"  {part:<20} {sentence}")
    if not status:
        lines.append("  the operator has not seen it yet")
    return lines


def _token(text: str | None) -> str:
    try:
        return parse_token(text) if text is not None else _fresh_id()
    except RequestError as error:
        raise WrongInput(str(error)) from None
