"""`make cluster`: a control plane to look at, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from tests.cluster.support.binaries import BinariesUnavailable, find_binaries
from tests.cluster.support.control_plane import ControlPlane, ControlPlaneError


def main() -> int:
    """Run a control plane in a temporary folder; returns the exit code."""
    # Waited for, not handled: nothing is interrupted half-way.
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    try:
        binaries = find_binaries()
        with tempfile.TemporaryDirectory(prefix="zeus-cluster-") as folder:
            with ControlPlane(Path(folder) / "plane", binaries) as plane:
                signal.pthread_sigmask(signal.SIG_BLOCK, ends)
                print(f"export KUBECONFIG={plane.kubeconfig}")
                print(f"alias kubectl={binaries.kubectl}")
                print("No scheduler and no kubelet: pods stay pending. Ctrl-C ends it.", flush=True)
                signal.sigwait(ends)
            return 0
    except (BinariesUnavailable, ControlPlaneError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
