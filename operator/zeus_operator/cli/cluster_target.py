"""How a command of `kubectl zeus` reaches ZeusJobs: with the rights of the user's kubeconfig."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from kubernetes import config
from kubernetes.client import Configuration
from kubernetes.config import ConfigException

from zeus_operator import names
from zeus_operator.cli.context import errors_reported
from zeus_operator.cli.failures import CommandError, ExitCode, WrongInput
from zeus_operator.kube import KubeClient, KubeError, NotFound, Object, path_of

R = TypeVar("R")


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
