"""The programs that ours are compared with, installed once from their public registries.

`python -m tests.support.peers` installs them and prints where they are.

zeusd (crates.io) is built with cargo, Zeus (PyPI) goes into a virtual environment of its own: its
packages and ours need not agree.

ZEUS_TEST_PEERS: the folder that keeps them, by default in the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ZEUSD_VERSION = "0.5.0"
ZEUS_VERSION = "0.16.0"


class PeerUnavailable(Exception):  # noqa: N818 -- a state of the machine
    """The program is not there and can't be installed; the text says what to do."""


def find_zeusd(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of zeusd, built if that was not done before (minutes, once).

    Raises:
        PeerUnavailable: there is no cargo, or the build fails.
    """
    folder = _folder(environ) / f"zeusd-{ZEUSD_VERSION}"
    program = folder / "bin" / "zeusd"
    with _exclusive(folder):
        if not program.exists():
            cargo = shutil.which("cargo")
            if cargo is None:
                raise PeerUnavailable(
                    "zeusd is built from source, and there is no `cargo` on PATH: install Rust"
                )
            # cargo puts the program there when all is built, not before.
            _install(
                [
                    *(cargo, "install", "--locked", "--quiet", "--version", ZEUSD_VERSION),
                    *("--root", str(folder), "zeusd"),
                ]
            )
    return program


def find_zeus_python(environ: Mapping[str, str] = os.environ) -> Path:
    """Return a Python that has Zeus and, as Zeus needs it, nvidia-ml-py; installed if needed.

    Raises:
        PeerUnavailable: it can't be installed.
    """
    folder = _folder(environ) / f"zeus-{ZEUS_VERSION}"
    python, complete = folder / "bin" / "python", folder / "complete"
    with _exclusive(folder):
        if not complete.exists():
            _install([sys.executable, "-m", "venv", "--clear", str(folder)])
            _install([str(python), "-m", "pip", "install", "--quiet", f"zeus=={ZEUS_VERSION}"])
            complete.touch()
    return python


def _folder(environ: Mapping[str, str]) -> Path:
    chosen = environ.get("ZEUS_TEST_PEERS")
    if chosen:
        return Path(chosen)
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "zeus-operator" / "peers"


def _install(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise PeerUnavailable(f"{' '.join(command)} failed:\n{tail}")


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(find_zeusd())
    print(find_zeus_python())
