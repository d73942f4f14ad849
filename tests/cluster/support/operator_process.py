"""The operator as a process of its own, with its own rights only, that tests start and kill."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path

from tests.cluster.support.processes import end, spawn
from tests.cluster.support.run_operator import AT_STEP, CLOCK_AHEAD, CLOCK_BEGIN, CLOCK_SPEED
from tests.support.eventually import eventually
from zeus_operator.executors.checkpoints import ClusterCheckpoint

REPOSITORY = Path(__file__).resolve().parents[3]
LEASE_SECONDS = 3.0
_numbers = itertools.count(1)


class OperatorProcess:
    """One replica.

    Args:
        directory: takes its log.
        kubeconfig: of its service account.
        database_url: of the store.
        lease_namespace: where its Lease is.
        clock_speed: so much faster than the real one its clock runs.
        clock_since: when it was right; None: at the start of the process.
        settings: further ZEUS_OPERATOR_ variables, by the rest of their name in lower case.
    """

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        database_url: str,
        lease_namespace: str,
        clock_speed: float = 1.0,
        clock_since: datetime | None = None,
        **settings: str,
    ) -> None:
        self.name = f"operator-{next(_numbers)}"
        self.log_path = directory / f"{self.name}.log"
        self._clock_ahead = directory / f"{self.name}.ahead"
        self.set_clock_ahead(timedelta())
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "DATABASE_URL": database_url,
            "ZEUS_OPERATOR_POD_NAME": self.name,
            "ZEUS_OPERATOR_LEASE_NAMESPACE": lease_namespace,
            "ZEUS_OPERATOR_LEASE_DURATION_SECONDS": f"{LEASE_SECONDS:g}",
            "ZEUS_OPERATOR_RENEW_DEADLINE_SECONDS": "2",
            "ZEUS_OPERATOR_RETRY_PERIOD_SECONDS": "0.4",
            "ZEUS_OPERATOR_STATEMENT_TIMEOUT_SECONDS": "2",
            "ZEUS_OPERATOR_TRANSACTION_IDLE_TIMEOUT_SECONDS": "2",
            "ZEUS_OPERATOR_RESYNC_SECONDS": "10",
            "ZEUS_OPERATOR_ABSENCE_CONFIRM_SECONDS": "5",
            "ZEUS_OPERATOR_HTTP_HOST": "127.0.0.1",
            "ZEUS_OPERATOR_HTTP_PORT": "0",
            "ZEUS_OPERATOR_WORKERS": "4",
            CLOCK_SPEED: f"{clock_speed:g}",
            CLOCK_AHEAD: str(self._clock_ahead),
            **{f"ZEUS_OPERATOR_{name.upper()}": value for name, value in settings.items()},
        }
        if clock_since is not None:
            self._environment[CLOCK_BEGIN] = clock_since.isoformat()
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, at: ClusterCheckpoint | None = None, nth: int = 1, send: str = "SIGKILL"
    ) -> OperatorProcess:
        """Start it; with `at`, it sends itself the signal as it passes that step the n-th time."""
        environment = dict(self._environment)
        if at is not None:
            environment[AT_STEP] = f"{at.value}:{nth}:{send}"
        command = [sys.executable, "-m", "tests.cluster.support.run_operator"]
        self._process = spawn(command, self.log_path, env=environment, cwd=REPOSITORY)
        return self

    def set_clock_ahead(self, jump: timedelta) -> None:
        """Let its clock jump, to be ahead by so much."""
        new = self._clock_ahead.with_suffix(".new")
        new.write_text(f"{jump.total_seconds():g}")
        new.replace(self._clock_ahead)  # it may be read at any moment

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still by a SIGSTOP."""
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"

    def stop(self) -> int:
        """SIGTERM, as the kubelet does; returns the exit code."""
        return end(self.process)

    def kill(self) -> None:
        """SIGKILL."""
        end(self.process, kill=True)

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.process.pid, signal.SIGSTOP)
        eventually(lambda: self.is_stopped, f"{self.name} stands still")

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

    def wait_for_end(self, seconds: float = 60.0) -> int:
        """Wait until it has ended by itself."""
        return self.process.wait(seconds)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def get(self, path: str) -> tuple[int, str]:
        """GET from its health and metrics port."""
        ports = re.findall(r"health and metrics on port (\d+)", self.log)
        if not ports:
            return 0, ""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{ports[-1]}{path}", timeout=10
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_until_ready(self, seconds: float = 60.0) -> OperatorProcess:
        """Wait until it is ready, as leader or standby."""
        eventually(lambda: self.get("/readyz")[0] == 200, f"{self.name} is ready", seconds)
        return self

    def wait_until_leading(self, seconds: float = 60.0) -> OperatorProcess:
        """Wait until it leads and has its first list."""
        eventually(lambda: self.leads, f"{self.name} leads", seconds)
        return self

    @property
    def leads(self) -> bool:
        status, body = self.get("/readyz")
        return status == 200 and "first list: ok" in body
