"""Makes more than one training run in one process, as its argument says.

after    the second after the first has ended
unused   the second instead of a first that never trained
within   the second while the first trains
fork     the second in a forked child, which then ends by an exception or SIGTERM
"""

from __future__ import annotations

import os
import signal
import sys

from zeus_runtime.run import TrainingRun


def train(run: TrainingRun, metric: float) -> None:
    """Train until the run ends."""
    while run.next_epoch():
        run.end_step()
        run.end_epoch()
        run.report_metric(metric)
    run.finish()
    run.raise_if_stopped()


def in_child(signal_number: int) -> int:
    """Make a run in a forked child and let it fail; return how it ended."""
    child = os.fork()
    if child == 0:
        TrainingRun(max_epochs=2, batch_size=16)
        if signal_number:
            os.kill(os.getpid(), signal_number)
        raise KeyError("the child fails")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(how: str) -> None:
    """Do as told."""
    first = TrainingRun(max_epochs=3, batch_size=16)
    if how == "fork":
        first.next_epoch()
        print(in_child(0), in_child(signal.SIGTERM))
        train(first, 0.95)
        return
    if how == "after":
        train(first, 0.95)
    elif how == "within":
        first.next_epoch()
    second = TrainingRun(max_epochs=2, batch_size=32 if how == "after" else 16)
    train(second, 0.95)
    print(second.epochs)
    if how != "after":
        try:
            first.next_epoch()
        except RuntimeError as error:
            print(error)


if __name__ == "__main__":
    main(sys.argv[1])
