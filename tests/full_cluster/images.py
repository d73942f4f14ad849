"""The images that come with the cluster: the pause container, and a small one for tests.

`localhost/busybox:1` has busybox's programs, the machine's C library, and `list-gpus`, a client of
NVML: whatever GPUs a pod was given, the library that shows them needs glibc.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from gpu_simulator.build import build_library, find_compiler
from tests.full_cluster.node_config import PAUSE_IMAGE
from tests.full_cluster.oci_archive import ImageFile, write_oci_archive

TEST_IMAGE = "localhost/busybox:1"
_SOURCES = Path(__file__).parent
_SHARED_OBJECT = re.compile(r"(?:=>)?\s*(/\S+) \(0x")


class ImageError(Exception):
    """An image can't be made; the text says why."""


def make_pause_image(folder: Path) -> Path:
    """Return an OCI archive with the image of the pause container."""
    archive = folder / "pause.tar"
    program = _compile(_SOURCES / "pause.c", "musl", "-static")
    write_oci_archive(archive, PAUSE_IMAGE, {"pause": ImageFile(program, 0o755)}, ["/pause"])
    return archive


def make_test_image(folder: Path) -> Path:
    """Return an OCI archive with `TEST_IMAGE`."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ImageError("no busybox on PATH: tools/system_packages.sh installs it")
    client = _compile(_SOURCES / "list_gpus.c", "gnu")
    libraries = {*_shared_objects(Path(busybox)), *_shared_objects(build_library())}
    archive = folder / "busybox.tar"
    write_oci_archive(
        archive,
        TEST_IMAGE,
        {
            "bin/busybox": ImageFile.copy_of(Path(busybox)),
            **{f"bin/{name}": ImageFile(link="busybox") for name in _applets(busybox)},
            "bin/list-gpus": ImageFile(client, 0o755),
            **{str(path).lstrip("/"): ImageFile.copy_of(path) for path in libraries},
            "etc/passwd": ImageFile(b"root:x:0:0:root:/root:/bin/sh\n"),
            "etc/group": ImageFile(b"root:x:0:\n"),
            "etc/nsswitch.conf": ImageFile(b"hosts: files dns\n"),
        },
        environment={"PATH": "/bin"},
    )
    return archive


def _applets(busybox: str) -> list[str]:
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name != "busybox"]


def _shared_objects(path: Path) -> list[Path]:
    """Return the libraries and the loader that `path` needs, none if it is static."""
    shown = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return [Path(found) for found in _SHARED_OBJECT.findall(shown.stdout)]


def _compile(source: Path, library: str, *flags: str) -> bytes:
    """Return a program for this machine.

    Args:
        library: "gnu" or "musl", for the compiler of the ziglang package, which links whichever it
            is told; a compiler of the machine links the machine's.
    """
    compiler = find_compiler()
    if "ziglang" in compiler:
        compiler = [*compiler, "-target", f"{platform.machine()}-linux-{library}"]
    with tempfile.TemporaryDirectory(prefix="zeus-image-") as folder:
        program = Path(folder) / source.stem
        built = subprocess.run(
            [*compiler, "-Os", *flags, "-o", str(program), str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode != 0:
            raise ImageError(f"{source.name} can't be compiled:\n{built.stderr[-2000:]}")
        return program.read_bytes()
