"""Prometheus and promtool: those on PATH, else Debian's, unpacked once into the user's cache.

Unpacking needs no root: the package is fetched by apt and opened with dpkg-deb.

ZEUS_TEST_PROMETHEUS: a folder that has both programs; then nothing else is looked at.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "prometheus"
OLDEST = (2, 42)
"""Debian 12 has it; the rules and dashboards use nothing newer."""
_FOLDER = "ZEUS_TEST_PROMETHEUS"
_HOW = (
    "install Debian's package `prometheus` (2.42 or later), put `prometheus` and `promtool` on "
    f"PATH, or set {_FOLDER} to a folder that has both"
)


class PrometheusUnavailable(Exception):  # noqa: N818 - a state of the machine
    """The programs can't be had; the text says why and what to do."""


@dataclass(frozen=True)
class Programs:
    """Paths of the two programs."""

    prometheus: Path
    promtool: Path


def find_programs(environ: Mapping[str, str] = os.environ) -> Programs:
    """Return the programs.

    Raises:
        PrometheusUnavailable: they are not on this machine and can't be fetched.
    """
    given = environ.get(_FOLDER)
    if given:
        found = _in(Path(given))
        if found is None:
            raise PrometheusUnavailable(f"{_FOLDER}={given} lacks one of the programs; {_HOW}")
        return _recent(found)
    on_path = [shutil.which(name, path=environ.get("PATH")) for name in ("prometheus", "promtool")]
    if all(on_path):
        return _recent(Programs(*(Path(str(each)) for each in on_path)))
    return _recent(_unpacked(_cache(environ)))


def _recent(programs: Programs) -> Programs:
    said = subprocess.run(
        [str(programs.promtool), "--version"], capture_output=True, text=True, check=False
    )
    version = re.search(r"version (\d+)\.(\d+)", said.stdout + said.stderr)
    if version is None or tuple(map(int, version.groups())) < OLDEST:
        found = "an unknown version" if version is None else ".".join(version.groups())
        raise PrometheusUnavailable(f"{programs.promtool} is {found}; {_HOW}")
    return programs


def _in(folder: Path) -> Programs | None:
    programs = Programs(folder / "prometheus", folder / "promtool")
    both = (programs.prometheus, programs.promtool)
    return programs if all(os.access(each, os.X_OK) for each in both) else None


def _cache(environ: Mapping[str, str]) -> Path:
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "zeus-operator"


def _unpacked(cache: Path) -> Programs:
    """Return the programs of Debian's package, fetched and opened if that was not done before."""
    folder = cache / "debian-prometheus"
    found = _in(folder)
    if found is not None:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "debian-prometheus.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _in(folder) is None:  # another process may have fetched it meanwhile
            _fetch(folder)
    found = _in(folder)
    if found is None:
        raise PrometheusUnavailable(f"Debian's package {PACKAGE} has no such programs; {_HOW}")
    return found


def _fetch(folder: Path) -> None:
    for needed in ("apt-get", "dpkg-deb"):
        if shutil.which(needed) is None:
            raise PrometheusUnavailable(f"there is no Prometheus, and no {needed} either; {_HOW}")
    with tempfile.TemporaryDirectory(prefix=".prometheus-", dir=folder.parent) as work:
        workshop = Path(work)
        # Lists of its own: a new machine has none yet, and to renew the system's needs root.
        for part in ("lists/partial", "cache/archives/partial"):
            (workshop / part).mkdir(parents=True)
        places = ("-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache")
        _run(["apt-get", *places, "update", "-qq"], workshop)
        _run(["apt-get", *places, "download", "-qq", PACKAGE], workshop)
        (package,) = workshop.glob("*.deb")
        _run(["dpkg-deb", "--extract", str(package), "opened"], workshop)
        made = workshop / "made"
        made.mkdir()
        for name in ("prometheus", "promtool"):
            (workshop / "opened" / "usr" / "bin" / name).rename(made / name)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise PrometheusUnavailable(f"`{' '.join(command)}` failed; {_HOW}. It said:\n{said}")
