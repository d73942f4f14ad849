"""The command line of `zeus-agent`."""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import urlsplit

from zeus_agent.callers import ServiceCaller
from zeus_agent.metrics import agent_version

CLUSTER_OPTIONS = ("tls_cert", "tls_key", "node_name", "pod_resources")
"""Needed with --listen, and of use only with it."""

OPTIONAL_CLUSTER_OPTIONS = ("operator_account", "kube_api", "kube_token_file", "kube_ca_file")
"""Of use only with --listen."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="zeus-agent",
        description="Sets GPU power limits on behalf of training runs, and puts them back.",
    )
    top.add_argument("--version", action="version", version=agent_version())
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the agent")
    _add_common(serve)
    _add_cluster(serve)
    return top


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options; ends the program with 2 if they make no sense together."""
    top = parser()
    options = top.parse_args(argv)
    given = [name for name in CLUSTER_OPTIONS if getattr(options, name) is not None]
    if options.listen is None:
        if options.socket is None:
            top.error("say where to listen: --socket, --listen, or both")
        given += [n for n in OPTIONAL_CLUSTER_OPTIONS if getattr(options, n) is not None]
        if given:
            top.error(f"{_option(given[0])} is of use only with --listen")
    elif len(given) < len(CLUSTER_OPTIONS):
        missing = next(name for name in CLUSTER_OPTIONS if name not in given)
        top.error(f"--listen needs {_option(missing)} too")
    elif options.kube_api is None:
        for name in ("kube_token_file", "kube_ca_file"):
            if getattr(options, name) is not None:
                top.error(f"{_option(name)} is of use only with --kube-api")
    return options


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add_common(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--socket", type=Path, help="path of the Unix socket")
    serve.add_argument(
        "--state-dir", type=Path, required=True, help="folder for the limits to put back"
    )
    serve.add_argument(
        "--allow-uid",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="user that may call besides root and the agent's own; may be given several times",
    )
    serve.add_argument(
        "--idle-exit-seconds",
        type=_positive,
        metavar="S",
        help="exit by itself when there has been no session for so long",
    )
    serve.add_argument(
        "--poll-seconds", type=_positive, default=1.0, metavar="S", help="period of looks at GPUs"
    )
    serve.add_argument(
        "--nvml-timeout-seconds",
        type=_positive,
        default=1.5,
        metavar="S",
        help="longest time of one visit to the driver",
    )
    serve.add_argument(
        "--policy", type=Path, metavar="FILE", help="the administrator's rules (YAML), reloaded"
    )
    serve.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        help="plain HTTP for /healthz, /readyz and /metrics alone",
    )
    serve.add_argument(
        "--expect-gpus",
        action="store_true",
        help="not ready as long as NVML shows no GPU: this node should have some",
    )
    serve.add_argument("--log-format", choices=("text", "json"), default="text")


def _add_cluster(serve: argparse.ArgumentParser) -> None:
    cluster = serve.add_argument_group("on a node of a cluster")
    cluster.add_argument(
        "--listen", metavar="HOST:PORT", help="TCP with TLS, for pods; they show a token"
    )
    cluster.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM)")
    cluster.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    cluster.add_argument("--node-name", metavar="NAME", help="as the API server knows this node")
    cluster.add_argument(
        "--pod-resources",
        type=Path,
        metavar="DIR",
        help="folder of the kubelet's PodResources socket",
    )
    cluster.add_argument(
        "--operator-account",
        type=_account,
        metavar="NS:NAME",
        help="ServiceAccount of the operator, which may read reports",
    )
    cluster.add_argument(
        "--kube-api",
        type=_url,
        metavar="URL",
        help="the API server; default: the one of the pod it runs in",
    )
    cluster.add_argument(
        "--kube-token-file", type=Path, metavar="FILE", help="with --kube-api: our own token"
    )
    cluster.add_argument(
        "--kube-ca-file", type=Path, metavar="FILE", help="with --kube-api: what signs its TLS"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("expected a number of seconds above 0")
    return value


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise argparse.ArgumentTypeError("expected a URL, e.g. https://10.0.0.1:6443")
    return text


def _account(text: str) -> ServiceCaller:
    namespace, colon, name = text.partition(":")
    if not colon or not namespace or not name or ":" in name:
        raise argparse.ArgumentTypeError("expected NAMESPACE:NAME")
    return ServiceCaller(namespace, name)
