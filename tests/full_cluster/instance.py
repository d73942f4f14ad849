"""What sets one cluster apart from others on the machine: name, addresses, folder, owner.

Every process of a cluster dies with the process that made it, and with the processes go their
namespaces, mounts and links.  Two things can stay behind after a crash: control groups and the
folder.  They are removed when the next cluster is made, or by `python -m tests.full_cluster down`.
The owner holds a lock on the folder; a folder without a locker is one whose owner is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from tests.full_cluster import cgroups
from tests.full_cluster.addresses import Addresses, free_addresses
from tests.full_cluster.network import remove_link
from tests.support.eventually import eventually

DIRECTORY_VARIABLE = "ZEUS_CLUSTER_DIR"
DEFAULT_DIRECTORY = "/var/tmp/zeus-clusters"  # on a disk: containerd unpacks images there
_OWNER = "owner.json"


@dataclass(frozen=True)
class Found:
    """A cluster that another process may own.

    Attributes:
        owner_pid: 0 if it is dead, or does not say.
        kept: somebody keeps it by `up`; otherwise it belongs to a test.
    """

    folder: Path
    alive: bool
    owner_pid: int
    kept: bool

    @property
    def name(self) -> str:
        """As links and control groups are called."""
        return self.folder.name


class Instance:
    """One cluster's name, addresses and folder, ours until `remove`.

    Attributes:
        name: unique on this machine while the cluster lives, e.g. "zeus200".
        folder: of its own, in a short path (sockets lie under it).
    """

    def __init__(self, folder: Path, addresses: Addresses, lock: int) -> None:
        self.name = folder.name
        self.folder = folder
        self.addresses = addresses
        self._lock = lock

    @classmethod
    def claim(cls, *, kept: bool = False, directory: Path | None = None) -> Instance:
        """Remove what dead owners left, and take a name and addresses that are free.

        Args:
            kept: see `Found`.
            directory: where the folders of clusters are; default: `$ZEUS_CLUSTER_DIR`.

        Raises:
            NoFreeAddresses: there are none.
        """
        with _all_locked(directory or clusters_directory()) as parent:
            remove_dead(parent)
            blocks = [Addresses(_octet(each)).block for each in _folders(parent)]
            addresses = free_addresses([*_routed(), *blocks])
            folder = parent / f"zeus{addresses.second_octet}"
            folder.mkdir(mode=0o700)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / _OWNER).write_text(json.dumps({"pid": os.getpid(), "kept": kept}))
            return cls(folder, addresses, lock)

    def cgroup(self, node: str) -> str:
        """Return the name of a node's control group."""
        return f"{self.name}-{node}"

    def remove(self) -> None:
        """Remove control groups and folder; every process must have ended."""
        with _all_locked(self.folder.parent):
            _remove(self.folder)
            os.close(self._lock)


def clusters_directory() -> Path:
    """Return where the folders of all clusters are."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY)


def find_instances(directory: Path) -> list[Found]:
    """Return the clusters in `directory`, dead ones too."""
    return [Found(folder, _is_locked(folder), *_owner_of(folder)) for folder in _folders(directory)]


def remove_dead(directory: Path) -> list[str]:
    """Remove what clusters with a dead owner left behind; return their names."""
    dead = [found for found in find_instances(directory) if not found.alive]
    for found in dead:
        _remove(found.folder)
    return [found.name for found in dead]


def clean(directory: Path) -> list[str]:
    """As `remove_dead`, while nobody else makes or removes a cluster."""
    with _all_locked(directory):
        return remove_dead(directory)


def _remove(folder: Path) -> None:
    remove_link(folder.name)
    cgroups.remove(f"{folder.name}-*")

    def gone() -> bool:
        # Processes of an owner that was killed die soon after it, and may write until then.
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    eventually(gone, f"{folder} is removed")


def _folders(directory: Path) -> list[Path]:
    return sorted(directory.glob("zeus[0-9]*"))


def _octet(folder: Path) -> int:
    return int(folder.name.removeprefix("zeus"))


def _owner_of(folder: Path) -> tuple[int, bool]:
    try:
        owner: dict[str, Any] = json.loads((folder / _OWNER).read_text())
        return int(owner["pid"]), bool(owner["kept"])
    except (OSError, ValueError, KeyError):  # its owner died while it made the file
        return 0, False


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _routed() -> list[IPv4Network]:
    """Return what this machine has a route to, the default route aside."""
    shown = subprocess.run(
        ["ip", "-j", "-4", "route", "show", "table", "all"],
        capture_output=True,
        text=True,
        check=True,
    )
    targets = (route["dst"] for route in json.loads(shown.stdout or "[]"))
    return [IPv4Network(target) for target in targets if target != "default"]


@contextlib.contextmanager
def _all_locked(directory: Path) -> Iterator[Path]:
    """Keep others from making or removing a cluster; the folder goes when it is empty."""
    while True:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_same(descriptor, directory):
                continue  # whoever had the lock has removed the folder
            try:
                yield directory
            finally:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            return
        finally:
            os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
