"""What tests need besides Python's packages, built before they ask for it.

`python -m tests.build_ahead` builds everything in the order in which `make test test-pods` comes to
need it.  Whoever finds something missing builds it by itself, and waits for what is being built
here.  So this may run beside the tests, in the time that they only wait, and what fails here is
told and left to them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.chart.support.helm import build_helm
from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.workload_controllers import CONTROLLERS, program_of
from tests.full_cluster.install.images import archives
from tests.full_cluster.programs import find_programs
from tests.observability.support.programs import find_programs as find_prometheus
from tests.peers.peers import zeus_python
from tests.support.peers import find_zeusd

_SYSTEM_PACKAGES = Path(__file__).parents[1] / "tools" / "system_packages.sh"


def steps() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is built, by name, in the order of need."""
    yield "zeusd", find_zeusd
    yield "Zeus", zeus_python
    yield "control plane", find_binaries
    for controller in CONTROLLERS:
        yield controller.name, partial(program_of, controller)
    yield "Helm", build_helm
    yield "Prometheus", find_prometheus
    yield "system packages", partial(subprocess.run, [_SYSTEM_PACKAGES], check=True)
    yield "nodes", find_programs
    yield "images", archives


def main() -> int:
    """Build all that can be built.  Exit code 1: something could not."""
    failed = 0
    for name, build in steps():
        begin = time.monotonic()
        try:
            build()
        except Exception as error:  # told, and left to those who need it
            failed += 1
            print(f"{name}: not built: {error!r}", flush=True)
        else:
            print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
