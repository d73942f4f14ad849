"""Zeus as its makers publish it, locked by hash, in an environment of its own, made once.

zeusd is made by `tests.support.peers`.
`python -m tests.peers.peers` makes both and prints where they are (minutes: zeusd is compiled).

ZEUS_TEST_PEERS: the folder that keeps them, by default in the user's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gpu_simulator import build_library, environment
from tests.support.peers import PeerUnavailable, find_zeusd

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "peers.txt"


def zeus_python(environ: Mapping[str, str] = os.environ) -> Path:
    """Return a Python that has the package `zeus` and what it needs, and nothing of ours.

    Raises:
        PeerUnavailable: the packages can't be installed.
    """
    contents = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        uv = str(Path(sys.executable).parent / "uv")
        _run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(folder)])
        _run(
            [
                *(uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")),
                *("--require-hashes", "-r", str(REQUIREMENTS)),
            ]
        )

    return _made(f"zeus-locked-{contents}", build, environ) / "bin" / "python"


def driver_environment(state: Path, folder: Path) -> dict[str, str]:
    """Return the variables under which a peer takes the GPUs of `state` for the machine's.

    Args:
        state: made by `create_state`.
        folder: to make a folder in for the name without a version that Rust programs look up,
            which a driver's development package has.
    """
    libraries = folder / "driver"
    libraries.mkdir(exist_ok=True)
    link = libraries / "libnvidia-ml.so"
    if not link.is_symlink():
        link.symlink_to(build_library())
    variables = environment(state)
    return {
        **os.environ,
        **variables,
        "LD_LIBRARY_PATH": f"{variables['LD_LIBRARY_PATH']}:{libraries}",
    }


def _cache(environ: Mapping[str, str]) -> Path:
    chosen = environ.get("ZEUS_TEST_PEERS")
    if chosen:
        return Path(chosen)
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "zeus-operator" / "peers"


def _made(name: str, build: Callable[[Path], None], environ: Mapping[str, str]) -> Path:
    cache = _cache(environ)
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _exclusive(cache / f"{name}.lock"):
        if not folder.is_dir():  # another process may have made it meanwhile
            workshop = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
            try:
                build(workshop / name)
                (workshop / name).rename(folder)
            finally:
                shutil.rmtree(workshop, ignore_errors=True)
    return folder


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise PeerUnavailable(f"`{' '.join(command)}` failed:\n{tail}")


if __name__ == "__main__":
    print(find_zeusd())
    print(zeus_python())
