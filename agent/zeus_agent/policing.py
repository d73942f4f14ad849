"""The administrator's policy as it stands for one GPU and whoever holds its lease."""

from __future__ import annotations

from collections.abc import Callable

from zeus_agent.gpu import Gpu
from zeus_agent.leases import LeaseMachine
from zeus_agent.limits import Refused, Rules
from zeus_agent.policy import BURST_OF_CHANGES, DeviceLimits, Policy
from zeus_agent.rate import TokenBucket
from zeus_runtime.protocol import ErrorCode


class Policing:
    """Holds wishes against the policy, and remembers whose lease it is.

    Args:
        machine: where wishes go.
        gpu: whose model and default limit the policy is about.
        clock: monotonic seconds.
    """

    def __init__(self, machine: LeaseMachine, gpu: Gpu, clock: Callable[[], float]) -> None:
        self._machine = machine
        self._gpu = gpu
        self._clock = clock
        self._policy = Policy()
        self._bucket: TokenBucket | None = None
        self._begun_ticket = 0
        self._namespace: str | None = None  # of the lease's holder
        self._shared = False

    def set_policy(self, policy: Policy) -> None:
        """Hold wishes against this policy from now on."""
        self._policy = policy
        rate, now = policy.changes_per_minute, self._clock()
        if rate is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = TokenBucket(rate, BURST_OF_CHANGES, now)
        else:
            self._bucket.change(rate, BURST_OF_CHANGES, now)

    def set_shared(self, shared: bool) -> None:
        """Note that the board has come to be shared, or the holder's alone."""
        self._shared = shared

    def wish(
        self, session: str, milliwatts: int, sequence: int, namespace: str | None, shared: bool
    ) -> int:
        """Hand a wish to the machine if the policy allows it; return its ticket.

        Raises:
            Refused: it does not, changes come too fast, or the machine refuses.
        """
        refusal = self._policy.refusal(self._model, namespace, shared, self._device_limits)
        if refusal is not None:
            raise refusal
        self._machine.check(session, sequence)
        # A wish that takes the place of one that waits brings no further change.
        if not self._machine.waits_after(self._begun_ticket):
            self._take_a_change(milliwatts)
        ticket = self._machine.request(session, milliwatts, sequence, namespace or "")
        self._namespace, self._shared = namespace, shared
        return ticket

    def begun(self, ticket: int) -> None:
        """Note that a wish is being done: what comes now is a further change."""
        self._begun_ticket = ticket

    def refusal_of_holder(self) -> Refused | None:
        """Return why the policy allows the lease no longer; None: it does, or there is none."""
        if self._machine.holder is None:
            return None
        return self._policy.refusal(self._model, self._namespace, self._shared, self._device_limits)

    def rules(self) -> Rules:
        """Return what holds for this GPU."""
        return self._policy.rules_for(self._model, self._device_limits)

    @property
    def _model(self) -> str:
        return "" if self._gpu.identity is None else self._gpu.identity.model

    @property
    def _device_limits(self) -> DeviceLimits:
        identity = self._gpu.identity
        default = None if identity is None else identity.default_milliwatts
        return DeviceLimits(default, self._machine.bounds)

    def _take_a_change(self, milliwatts: int) -> None:
        if self._bucket is None or not self._machine.is_change(milliwatts):
            return
        wait_seconds = self._bucket.take(self._clock())
        if wait_seconds > 0.0:
            raise Refused(
                ErrorCode.RATE_LIMITED,
                f"the limit of {self._gpu.uuid} changes more often than the node's policy allows "
                f"({self._policy.changes_per_minute:g} times a minute); try again in "
                f"{wait_seconds:.1f} s",
                retry_after_seconds=wait_seconds,
            )
