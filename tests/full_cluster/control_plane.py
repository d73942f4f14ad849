"""The control plane of a whole cluster: with a scheduler, all controllers, and names."""

from __future__ import annotations

import contextlib
from pathlib import Path

import yaml

from tests.cluster.support.control_plane import ControlPlane
from tests.full_cluster.addresses import Addresses
from tests.full_cluster.node_config import CLUSTER_DOMAIN
from tests.full_cluster.programs import Programs

# Names outside the cluster do not exist, rather than being refused: a resolver that is refused
# takes the server for broken.
_COREFILE = """\
{domain}:53 in-addr.arpa:53 {{
    bind {address}
    errors
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
.:53 {{
    bind {address}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
_MANIFESTS = Path(__file__).parent


class FullControlPlane(ControlPlane):
    """A control plane for real nodes, in a network namespace of its own.

    Args:
        directory: as `ControlPlane`.
        enter: command that starts another one in that namespace.
        controller_manager_flags: more command-line flags.
    """

    def __init__(
        self,
        directory: Path,
        programs: Programs,
        addresses: Addresses,
        enter: list[str],
        *,
        api_server_flags: tuple[str, ...] = (),
        controller_manager_flags: tuple[str, ...] = (),
    ) -> None:
        # The kubelet's serving certificate is checked against the same authority.
        kubelet_client = directory / "pki" / "kubelet-client"
        super().__init__(
            directory,
            programs.control_plane,
            address=str(addresses.control_plane),
            service_range=str(addresses.services),
            enter=enter,
            api_server_flags=(
                "--authorization-mode=Node",  # and RBAC, which comes from the base
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--endpoint-reconciler-type=lease",
                f"--kubelet-certificate-authority={directory / 'pki' / 'ca.crt'}",
                f"--kubelet-client-certificate={kubelet_client}.crt",
                f"--kubelet-client-key={kubelet_client}.key",
                "--kubelet-preferred-address-types=InternalIP",
                *api_server_flags,
            ),
            controller_manager_flags=("--controllers=*", *controller_manager_flags),
        )
        self._programs = programs
        self._addresses = addresses

    def start(self) -> None:
        """As `ControlPlane.start`; scheduler and DNS server run then; nodes may do their work."""
        super().start()
        try:
            self._start_scheduler()
            self._start_dns()
            self._make("network-policies.yaml")
        except BaseException:
            self.stop()
            raise

    def restart_scheduler(self) -> None:
        """Kill the scheduler and start it again."""
        self._end("kube-scheduler", kill=True)
        self._start_scheduler()

    def _make_keys(self) -> None:
        super()._make_keys()
        # `kubectl logs` and `exec` come to the kubelet from the API server.
        self.authority.sign("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")

    def _start_scheduler(self) -> None:
        kubeconfig = self.kubeconfig_of("scheduler", "/CN=system:kube-scheduler")
        self._launch(
            "kube-scheduler",
            self._programs.kube_scheduler,
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
        )

    def _start_dns(self) -> None:
        """Run CoreDNS beside the API server, behind the Service that pods ask."""
        kubeconfig = self.kubeconfig_of("coredns", "/CN=system:coredns")
        corefile = self.directory / "Corefile"
        corefile.write_text(
            _COREFILE.format(
                domain=CLUSTER_DOMAIN,
                address=self._addresses.control_plane,
                kubeconfig=kubeconfig,
            )
        )
        addresses = self._addresses
        self._make("dns.yaml", DNS_SERVICE=addresses.dns, DNS_SERVER=addresses.control_plane)
        self._launch("coredns", self._programs.coredns, f"-conf={corefile}")

    def _make(self, manifests: str, **placeholders: object) -> None:
        """Make the objects of a file beside this one."""
        text = (_MANIFESTS / manifests).read_text()
        for placeholder, value in placeholders.items():
            text = text.replace(placeholder, str(value))
        with contextlib.closing(self.api()) as api:
            for manifest in yaml.safe_load_all(text):
                group = "api" if manifest["apiVersion"] == "v1" else "apis"
                namespace = manifest["metadata"].get("namespace")
                middle = f"/namespaces/{namespace}" if namespace else ""
                collection = f"{manifest['kind'].lower()}s"
                api.post(f"/{group}/{manifest['apiVersion']}{middle}/{collection}", manifest)
