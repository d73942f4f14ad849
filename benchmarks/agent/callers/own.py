"""Sets limits with `zeus_runtime.agent_client.AgentClient`; see `turns`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.agent.callers.turns import SetLimit, arguments, take_turns
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import SessionRequest


def main() -> None:
    """Set limits in a session that lasts for a turn."""
    given = arguments()
    client = AgentClient(f"unix://{given['socket']}", timeout_seconds=60.0)
    session, uuid = given["session"], given["uuid"]

    def set_limit(watts: int) -> None:
        lease = client.set_power_limit(session, uuid, watts)
        if lease.applied_watts != watts:
            raise SystemExit(f"asked for {watts} W, got {lease.applied_watts} W")

    @contextmanager
    def in_session() -> Iterator[SetLimit]:
        client.open_session(session, SessionRequest(job="bench/set-limit", ttl_seconds=600.0))
        client.set_power_limit(session, uuid, given["lowest"] - 1)  # the first of a lease
        yield set_limit
        client.close_session(session)

    take_turns({"agent": in_session}, given["lowest"], given["highest"])


if __name__ == "__main__":
    main()
