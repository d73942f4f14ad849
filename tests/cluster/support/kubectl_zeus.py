"""The kubectl plugin as a program of its own, with the rights of a kubeconfig."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class KubectlZeus:
    """`kubectl zeus`.

    Args:
        kubeconfig: of who calls.
        directory: that it is called in.
    """

    kubeconfig: Path
    namespace: str
    directory: Path

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run the program and return exit code, output and errors."""
        program = "from zeus_operator.cli.cluster import main; main()"
        where = ("-n", self.namespace, "--kubeconfig", str(self.kubeconfig))
        done = subprocess.run(
            [sys.executable, "-c", program, arguments[0], *where, *arguments[1:]],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
        )
        return done.returncode, done.stdout, done.stderr

    def out(self, *arguments: str) -> str:
        """Return the output of what succeeds."""
        code, said, errors = self(*arguments)
        assert code == 0, errors
        return said

    def json(self, *arguments: str) -> Any:
        """Return the output of what succeeds as JSON."""
        return json.loads(self.out(*arguments, "-o", "json"))
