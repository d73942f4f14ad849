"""The operator's own program, which sends itself a signal at a chosen step: `step:nth:SIGNAL`.

Its clock may run faster than the real one, and jump while it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from zeus_operator.executors.checkpoints import (
    ClusterCheckpoint,
    ClusterCheckpointHook,
    no_cluster_checkpoint,
)
from zeus_operator.kube import load_configuration
from zeus_operator.logs import set_up_logging
from zeus_operator.main import Operator, run, utc_now
from zeus_operator.settings import load_settings

AT_STEP = "ZEUS_TEST_AT_STEP"
CLOCK_SPEED = "ZEUS_TEST_CLOCK_SPEED"
CLOCK_AHEAD = "ZEUS_TEST_CLOCK_AHEAD"
CLOCK_BEGIN = "ZEUS_TEST_CLOCK_BEGIN"
"""Names a file that holds by how many seconds the clock is ahead at the moment."""


def hook_of(text: str | None) -> ClusterCheckpointHook:
    """Return what sends the signal: the n-th time that the step is passed."""
    if not text:
        return no_cluster_checkpoint
    step, nth, name = text.split(":")
    number = signal.Signals[name]
    passed: Counter[ClusterCheckpoint] = Counter()

    def hook(moment: ClusterCheckpoint) -> None:
        passed[moment] += 1
        if moment == ClusterCheckpoint(step) and passed[moment] == int(nth):
            print(f"{name} at {moment.value}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), number)

    return hook


def clock_of(speed: float, ahead: str | None, since: str | None) -> Callable[[], datetime]:
    """Return a clock so much faster than the real one: a minute of a schedule is short.

    Args:
        ahead: path of a file with the seconds by which it is ahead, now.
        since: when it was right, so that one operator goes on from the time of the one before.
    """
    begin = utc_now() if since is None else datetime.fromisoformat(since)

    def clock() -> datetime:
        jump = float(Path(ahead).read_text()) if ahead else 0.0
        return begin + speed * (utc_now() - begin) + timedelta(seconds=jump)

    return clock


def main() -> None:
    settings = load_settings(os.environ)
    set_up_logging(settings.log_format)
    kubeconfig = os.environ["KUBECONFIG"]
    operator = Operator(
        settings,
        lambda: load_configuration(kubeconfig),
        clock=clock_of(
            float(os.environ.get(CLOCK_SPEED, "1")),
            os.environ.get(CLOCK_AHEAD),
            os.environ.get(CLOCK_BEGIN),
        ),
        checkpoint=hook_of(os.environ.get(AT_STEP)),
    )
    code = run(settings, kubeconfig, operator)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
