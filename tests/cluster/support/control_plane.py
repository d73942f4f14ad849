"""A real Kubernetes control plane on loopback ports: etcd, kube-apiserver, controller-manager.

No scheduler and no kubelet: `SimulatedNode` plays both.  Tests see the API exactly as a cluster
serves it, with RBAC, admission, garbage collection and the Job and CronJob controllers.
`tests/full_cluster` gives it a network of its own, a scheduler and nodes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.support.api import Api, ApiFailure
from tests.cluster.support.binaries import Binaries
from tests.cluster.support.pki import Authority, base64_of
from tests.cluster.support.processes import end, free_ports, spawn
from tests.support.eventually import eventually

READY_SECONDS = 60.0
ISSUER = "https://kubernetes.default.svc.cluster.local"
TOKEN_SECONDS = 24 * 3600
LAUNCH_ATTEMPTS = 3

CONTROLLERS = (
    "cronjob-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "ttl-after-finished-controller",
)
"""No pod garbage collector: it would take the simulated node for one that is gone."""


class ControlPlaneError(Exception):
    """A part of the control plane does not start; the text holds the end of its log."""


class ControlPlane:
    """One control plane whose state lies under `directory`.

    Use it as a context manager, or call `start` and `stop`.  Everything dies with this process.

    Args:
        directory: of its own; keys, logs and etcd's data are kept in it.
        api_server_flags, controller_manager_flags: more command-line flags, e.g.
            `("--kube-api-qps=500", "--kube-api-burst=1000")`.
        address: where the API server listens; this process must reach it.
        service_range: of the Services' addresses.
        enter: command that each process is started by, e.g. `nsenter --net=...` if `address` is
            one of another network namespace.
    """

    def __init__(
        self,
        directory: Path,
        binaries: Binaries,
        *,
        api_server_flags: Sequence[str] = (),
        controller_manager_flags: Sequence[str] = (),
        address: str = "127.0.0.1",
        service_range: str = "10.96.0.0/16",
        enter: Sequence[str | Path] = (),
    ) -> None:
        self.directory = directory
        self._binaries = binaries
        self._api_server_flags = tuple(api_server_flags)
        self._controller_manager_flags = tuple(controller_manager_flags)
        self._address = address
        self._service_range = service_range
        self._enter = tuple(enter)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: list[int] = []
        self._authority: Authority | None = None
        self._tokens = 0
        self._lock = threading.Lock()

    # Life ----------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until the API server is ready.

        Raises:
            ControlPlaneError: a part does not start.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_keys()
        try:
            for attempt in range(1, LAUNCH_ATTEMPTS + 1):
                self._ports = free_ports(3)
                self._write_kubeconfig(self.kubeconfig, {**self._admin})
                try:
                    self._start_etcd()
                    self.start_api_server()
                    break
                except ControlPlaneError as error:
                    self.stop()
                    # Somebody may have taken a port between the look and the start.
                    if "address already in use" not in str(error) or attempt == LAUNCH_ATTEMPTS:
                        raise
            self._start_controller_manager()
            self._await_default_service_account()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes.  What is under `directory` stays, logs included."""
        for name in reversed(list(self._processes)):
            self._end(name, kill=True)

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # Faults --------------------------------------------------------------------

    def stop_api_server(self, *, kill: bool = True) -> None:
        """Take the API server away: connections break, then are refused."""
        self._end("kube-apiserver", kill=kill)

    def start_api_server(self) -> None:
        """Start the API server, on the port it has always had, and wait until it is ready."""
        authority = self._need_authority()
        self._launch(
            "kube-apiserver",
            self._binaries.kube_apiserver,
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            "--endpoint-reconciler-type=none",  # would refuse an address of the loopback
            f"--secure-port={self._api_port}",
            f"--tls-cert-file={self._serving[0]}",
            f"--tls-private-key-file={self._serving[1]}",
            f"--client-ca-file={authority.certificate}",
            "--authorization-mode=RBAC",
            f"--service-cluster-ip-range={self._service_range}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={authority.service_account_key}",
            f"--service-account-signing-key-file={authority.service_account_key}",
            "--profiling=false",
            "--event-ttl=1h",
            *self._api_server_flags,
        )
        self._await("kube-apiserver", self._api_is_ready)

    def restart_api_server(self) -> None:
        """Kill the API server and start it again; returns when it is ready."""
        self.stop_api_server()
        self.start_api_server()

    def restart_controller_manager(self) -> None:
        """Kill the controller-manager and start it again."""
        self._end("kube-controller-manager", kill=True)
        self._start_controller_manager()

    # Use -----------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of an administrator; keys are in the file."""
        return self.directory / "admin.kubeconfig"

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://{self._address}:{self._api_port}"

    @property
    def authority(self) -> Authority:
        """What signs the cluster's certificates."""
        return self._need_authority()

    def api(self) -> Api:
        """Return a client with an administrator's rights."""
        return Api(self.kubeconfig)

    def kubectl(
        self, *arguments: str, input: str | None = None, as_user: Path | None = None
    ) -> str:
        """Run kubectl and return what it prints.

        Args:
            input: its standard input, e.g. a manifest for `apply -f -`.
            as_user: kubeconfig of somebody else than the administrator.

        Raises:
            KubectlError: it fails; the text is what it says.
        """
        home = self.directory / "kubectl-home"
        done = subprocess.run(
            [str(self._binaries.kubectl), *arguments],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(home),
                "KUBECONFIG": str(as_user or self.kubeconfig),
                "TZ": "UTC",
            },
        )
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def kubeconfig_for(self, service_account: str, namespace: str) -> Path:
        """Return a kubeconfig with a fresh token of a service account: its RBAC rights, no more."""
        with contextlib.closing(self.api()) as api:
            answer = api.post(
                f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token",
                {"spec": {"expirationSeconds": TOKEN_SECONDS}},
            )
        with self._lock:
            self._tokens += 1
            number = self._tokens
        path = self.directory / f"{namespace}.{service_account}.{number}.kubeconfig"
        self._write_kubeconfig(path, {"token": answer["status"]["token"]}, namespace)
        return path

    def kubeconfig_of(self, name: str, subject: str, alternative_names: str = "") -> Path:
        """Return a kubeconfig of whom a fresh certificate names.

        Args:
            name: of its files.
            subject: e.g. "/O=system:nodes/CN=system:node:a".
            alternative_names: as `Authority.sign` takes them.
        """
        certificate, key = self._need_authority().sign(name, subject, alternative_names)
        path = self.directory / f"{name}.kubeconfig"
        self._write_kubeconfig(
            path,
            {
                "client-certificate-data": base64_of(certificate),
                "client-key-data": base64_of(key),
            },
        )
        return path

    def log(self, name: str, lines: int = 40) -> str:
        """Return the end of the log of `etcd`, `kube-apiserver` or `kube-controller-manager`."""
        try:
            return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def pids(self) -> dict[str, int]:
        """Return the process ids of the parts that run."""
        return {name: p.pid for name, p in self._processes.items() if p.poll() is None}

    # Parts ---------------------------------------------------------------------

    @property
    def _api_port(self) -> int:
        return self._ports[0]

    @property
    def _etcd_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    def _need_authority(self) -> Authority:
        assert self._authority is not None, "not started"
        return self._authority

    def _make_keys(self) -> None:
        if self._authority is not None:
            return
        self._authority = Authority(self.directory / "pki")
        self._serving = self._authority.sign(
            "apiserver",
            "/CN=kube-apiserver",
            f"IP:127.0.0.1,IP:{self._address},IP:{ip_network(self._service_range)[1]},DNS:localhost,"
            "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
            "DNS:kubernetes.default.svc.cluster.local",
        )
        certificate, key = self._authority.sign("admin", "/O=system:masters/CN=admin")
        self._admin = {
            "client-certificate-data": base64_of(certificate),
            "client-key-data": base64_of(key),
        }

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{self._ports[2]}"
        self._launch(
            "etcd",
            self._binaries.etcd,
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # nothing in a test outlives a crash of the machine
            "--log-level=warn",
        )

    def _start_controller_manager(self) -> None:
        authority = self._need_authority()
        self._launch(
            "kube-controller-manager",
            self._binaries.kube_controller_manager,
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={authority.service_account_key}",
            f"--root-ca-file={authority.certificate}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
            *self._controller_manager_flags,
        )

    def _api_is_ready(self) -> bool:
        with contextlib.closing(self.api()) as api:
            try:
                return api.text("/readyz") == "ok"
            except ApiFailure:
                return False

    def _await_default_service_account(self) -> None:
        """The first account shows that the controller-manager works."""

        def there() -> bool:
            with contextlib.closing(self.api()) as api:
                return api.find("/api/v1/namespaces/default/serviceaccounts/default") is not None

        self._await("kube-controller-manager", there)

    def _launch(self, name: str, program: Path, *flags: str) -> None:
        assert name not in self._processes, f"{name} runs already"
        command = [*self._enter, program, *flags]
        self._processes[name] = spawn(command, self._log(name), cwd=self.directory)

    def _end(self, name: str, *, kill: bool) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            end(process, kill=kill)

    def _await(self, name: str, condition: Any) -> None:
        def ready() -> bool:
            for each, process in self._processes.items():
                if process.poll() is not None:
                    raise ControlPlaneError(
                        f"{each} has ended with {process.returncode}:\n{self.log(each)}"
                    )
            return bool(condition())

        try:
            eventually(ready, f"{name} is ready", READY_SECONDS)
        except AssertionError as error:
            raise ControlPlaneError(f"{error}; the end of its log:\n{self.log(name)}") from None

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _write_kubeconfig(
        self, path: Path, user: Mapping[str, str], namespace: str = "default"
    ) -> None:
        cluster = {
            "server": self.url,
            "certificate-authority-data": base64_of(self._need_authority().certificate),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "user", "user": dict(user)}],
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "test", "user": "user", "namespace": namespace},
                }
            ],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))


class KubectlError(Exception):
    """kubectl has failed; the text is what it says."""
