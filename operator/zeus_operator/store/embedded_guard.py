"""Stops the embedded server when its last user is gone, even by SIGKILL.

Run as `python -m zeus_operator.store.embedded_guard HOME GUARD_LOCK_FD [LINGER_SECONDS]`,
detached, by whoever starts the server.  Every user holds a shared lock that the
kernel drops at its death; the guard waits for the exclusive one.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from zeus_operator.store.postmaster import Layout, open_lock, stop_postmaster


def guard(
    layout: Layout,
    guard_lock: int,
    linger_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until nobody has used the server for `linger_seconds`, then stop it.

    Args:
        guard_lock: descriptor that already holds `layout.guard_lock`; it came
            from the starter, so that there is no moment without a guard.
        linger_seconds: spares two commands in a row a stop and a start.
    """
    users = open_lock(layout.users_lock)
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        if linger_seconds <= 0:
            break
        fcntl.flock(users, fcntl.LOCK_UN)
        sleep(linger_seconds)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # somebody came: wait for the next last one
        break
    try:
        stop_postmaster(layout.cluster)
    finally:
        # In this order: a starter waits for the users' lock, and must then find
        # no guard, so that it starts a new one.
        os.close(guard_lock)
        os.close(users)


def main(arguments: list[str]) -> int:
    """Run the guard of one server."""
    home, guard_lock = Path(arguments[0]), int(arguments[1])
    linger_seconds = float(arguments[2]) if len(arguments) > 2 else 0.0
    os.set_inheritable(guard_lock, False)
    guard(Layout(home), guard_lock, linger_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
