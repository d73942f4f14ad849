"""A process that wants the Lease and, while it leads, says so many times a second.

Arguments: kubeconfig, namespace, identity, lease duration, renew deadline and retry period.
Prints "standby", then "acts SECONDS" for each act as the leader (seconds of a clock that all
processes of the machine share), then "lost" or "stopped".
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

from zeus_operator.kube import KubeClient, load_configuration
from zeus_operator.leader import LeaderElector, LeadershipLost
from zeus_operator.lease import Candidate, KubeLease, LeaseTimes, lease_clock

LEASE_NAME = "zeus-operator"


async def main(kubeconfig: str, namespace: str, identity: str, times: LeaseTimes) -> None:
    """Lead when it is this one's turn, until stopped or replaced."""
    client = KubeClient(
        load_configuration(kubeconfig),
        pool_size=1,
        read_timeout_seconds=times.request_timeout_seconds,
    )
    elector = LeaderElector(
        Candidate(KubeLease(client, namespace, LEASE_NAME), identity, times), times
    )

    async def act() -> None:
        while True:
            now = lease_clock()
            elector.check()
            print(f"acts {now}", flush=True)
            await asyncio.sleep(0.01)

    print("standby", flush=True)
    running = asyncio.ensure_future(elector.run(act))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
        print("stopped", flush=True)
    except LeadershipLost:
        print("lost", flush=True)


if __name__ == "__main__":
    _kubeconfig, _namespace, _identity, *_seconds = sys.argv[1:]
    _times = LeaseTimes(*(float(text) for text in _seconds))
    asyncio.run(main(_kubeconfig, _namespace, _identity, _times))
