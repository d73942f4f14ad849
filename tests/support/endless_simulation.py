"""Simulations that never end, over two processes, for tests of what stops them.

    python -m tests.support.endless_simulation FOLDER

Each worker leaves a file in FOLDER whose name is its process id.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from zeus_operator.simulate.pool import simulate_many


@dataclass(frozen=True)
class Endless:
    """Says which process runs it, and stays."""

    folder: Path

    def run(self) -> int:
        """Wait for ever."""
        (self.folder / str(os.getpid())).touch()
        threading.Event().wait()
        return 0


if __name__ == "__main__":
    for _ in simulate_many([Endless(Path(sys.argv[1]))] * 8, processes=2):
        pass
