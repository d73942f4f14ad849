"""Builds the simulated NVML library with whatever C compiler there is.

The library is cached per user by a hash of its sources, flags and compiler, so that it is
built once and again after each change.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LIBRARY_NAME = "libnvidia-ml.so.1"
NATIVE_DIRECTORY = Path(__file__).parent / "native"

_FLAGS = (
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-O2",
    "-g0",
    "-Wall",
    "-Wextra",
    "-fPIC",
    "-fvisibility=hidden",
    "-shared",
    f"-Wl,-soname,{LIBRARY_NAME}",
)
_LIBRARIES = ("-lm", "-lpthread")


class BuildError(RuntimeError):
    """The library can't be built; the text says what to install or what the compiler said."""


def find_compiler() -> list[str]:
    """Return the command of a C compiler: `$CC`, cc, gcc, clang, or the ziglang package.

    Raises:
        BuildError: there is none.
    """
    chosen = os.environ.get("CC")
    for name in (chosen, "cc", "gcc", "clang"):
        if name and shutil.which(name.split()[0]):
            return name.split()
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise BuildError(
        "the GPU simulator needs a C compiler: install gcc or clang, "
        "or `pip install ziglang`, which carries one"
    )


def cache_directory() -> Path:
    """Return the folder that builds are kept in: `$GPU_SIM_BUILD_DIR` or the user's cache."""
    chosen = os.environ.get("GPU_SIM_BUILD_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(base) if base else Path.home() / ".cache"
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache / "gpu-simulator"
    except (OSError, RuntimeError):
        pass  # no home to write to (a container with a foreign user id): the temporary folder
    return Path(tempfile.gettempdir()) / f"gpu-simulator-{os.getuid()}"


def build_library(compiler: Sequence[str] | None = None) -> Path:
    """Return the path of `libnvidia-ml.so.1`, building it if these sources have not been built.

    The file lies in a folder of its own, fit for LD_LIBRARY_PATH.  Several processes may call
    this at once: one builds, the others wait.

    Args:
        compiler: command to use; default: `find_compiler()`.

    Raises:
        BuildError: no compiler, or it failed.
    """
    command = list(compiler) if compiler is not None else None
    root = cache_directory()
    sources = sorted(NATIVE_DIRECTORY.glob("*.c"))
    key = _key([*sources, *NATIVE_DIRECTORY.glob("*.h"), *NATIVE_DIRECTORY.glob("*.inc")], command)
    library = root / key / "lib" / LIBRARY_NAME
    if library.exists():
        return library
    command = command or find_compiler()
    library.parent.mkdir(parents=True, exist_ok=True)
    with (root / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile(command, sources, library)
    return library


def _key(files: Sequence[Path], command: Sequence[str] | None) -> str:
    digest = hashlib.sha256(repr((_FLAGS, _LIBRARIES, command, os.uname().machine)).encode())
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _compile(command: Sequence[str], sources: Sequence[Path], library: Path) -> None:
    # Built under another name and renamed: a build that is killed leaves no half library.
    partial = library.with_suffix(f".{os.getpid()}")
    try:
        done = subprocess.run(
            [*command, *_FLAGS, "-o", str(partial), *map(str, sources), *_LIBRARIES],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BuildError(
                f"{' '.join(command)} could not build the GPU simulator:\n{done.stderr[-4000:]}"
            )
        partial.rename(library)
    except OSError as error:
        raise BuildError(
            f"could not build the GPU simulator in {library.parent}: {error}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
