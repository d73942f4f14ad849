"""A process in a pod that holds power limits through the runtime's own background client.

    python -m tests.support.limit_holder PHASE SESSION TTL UUID

It prints "ready" once it is in its phase, and stays there until it is ended.  Phases: `profiling`
goes from limit to limit, `holding` keeps one, `idle` has a session and no limit.
"""

from __future__ import annotations

import itertools
import sys
import threading

from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.agent_client import find_agent
from zeus_runtime.protocol import SessionRequest

LIMITS_WATTS = (150.0, 165.0, 180.0)
"""Of none of these is anything found: they tell a limit of ours from all others."""

STEP_SECONDS = 0.03
PATIENCE_SECONDS = 60.0


def main(phase: str, session: str, ttl_seconds: str, uuid: str) -> None:
    """Get into the phase and stay there."""
    address = find_agent()
    assert address is not None
    request = SessionRequest(
        job="team/nightly", ttl_seconds=float(ttl_seconds), ends_with_connection=True
    )
    agent = BackgroundAgent(address, session, request, renewal_seconds=0.2)
    agent.start()
    if phase == "idle":
        assert agent.wait(lambda status: status.connected, PATIENCE_SECONDS).connected
    else:
        for watts in LIMITS_WATTS if phase == "profiling" else LIMITS_WATTS[:1]:
            agent.want_power_limit(uuid, watts)

            def is_held(wanted: float = watts) -> bool:
                lease = agent.status.leases.get(uuid)
                return lease is not None and lease.applied_watts == wanted

            agent.wait(lambda status: is_held(), PATIENCE_SECONDS)
            assert is_held(), agent.status
    print("ready", flush=True)
    pause = threading.Event()
    if phase == "profiling":
        for watts in itertools.cycle(LIMITS_WATTS):
            agent.want_power_limit(uuid, watts)
            pause.wait(STEP_SECONDS)
    pause.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
