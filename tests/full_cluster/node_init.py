"""The first process of a node, in namespaces of its own: mounts, then reaps.

Run as a program, by its path, with an interpreter that knows nothing of the project.  Its end is
the end of everything on the node.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

# A kubelet sets these, which are the whole machine's, unless they read as it wants them.  It is
# shown files that do, so that the machine stays as it is.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# Of the node's network namespace alone: that pods are routed, and that iptables sees what one pod
# sends another one on the same bridge.
_NETWORK_SWITCHES = ("ipv4/ip_forward", "bridge/bridge-nf-call-iptables")


def main() -> None:
    """Prepare the node that `sys.argv` names, say so by making a file, then wait for ever."""
    folder, hostname, ready = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    # From the start, so that no child's end is missed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    socket.sethostname(hostname)
    _mount_all(folder)
    for name in _NETWORK_SWITCHES:
        Path("/proc/sys/net", name).write_text("1")
    ready.touch()
    while True:
        signal.sigwait({signal.SIGCHLD})
        _reap()


def _mount_all(folder: Path) -> None:
    """Give the node what a machine has of its own, and the host nothing of it."""
    _mount("--make-rshared", "/")  # volumes may ask for mounts to propagate
    # Sockets, locks, the pods' network namespaces: a kubelet's fixed paths, and containerd's.
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    # Mount points can be made here that the host does not have, and what programs leave in their
    # folders, such as a DaemonSet's on the node, is there again after a power cut.
    for path in ("/var/lib", "/var/log"):
        layers = folder / "layers" / path.strip("/").replace("/", "-")
        upper, work = layers / "upper", layers / "work"
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
        options = f"lowerdir={path},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "-o", options, "overlay", path)
    for name, path in (("kubelet", "/var/lib/kubelet"), ("pod-logs", "/var/log/pods")):
        Path(path).mkdir(exist_ok=True)
        (folder / name).mkdir(exist_ok=True)
        _mount("--bind", str(folder / name), path)
    shown = Path("/run/sysctls")
    shown.mkdir()
    for name, value in SYSCTLS.items():
        setting = Path("/proc/sys", name)
        if setting.exists():
            file = shown / name.replace("/", ".")
            file.write_text(f"{value}\n")
            _mount("--bind", str(file), str(setting))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _reap() -> None:
    """Take leave of processes whose parents have ended, containers' shims for the most part."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
