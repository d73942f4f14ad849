"""Training in virtual time: a model of a GPU, an agent that obeys, a counter that ticks.

Drives the real `PowerControl` (and with it `PowerProfile`, `Trial`, `Ledger`) through
millions of virtual seconds in no time.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from zeus_runtime.agent_background import AgentStatus
from zeus_runtime.cost import cost_joules
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.ledger import Ledger, Phase
from zeus_runtime.notices import Notices
from zeus_runtime.power_control import PowerControl
from zeus_runtime.power_parts import PowerWishes, Steps
from zeus_runtime.power_profile import candidate_limits
from zeus_runtime.protocol import Lease
from zeus_runtime.windows import Energy


@dataclass(frozen=True)
class ModelledGpu:
    """Power and speed under a limit: a part of the step scales with the clock."""

    name: str
    min_watts: float
    max_watts: float
    static_watts: float
    dynamic_watts: float
    clock_share: float
    exponent: float = 2.4

    def clock(self, limit: float) -> float:
        room = max(limit - self.static_watts, 0.05 * self.dynamic_watts)
        return float(min(1.0, (room / self.dynamic_watts) ** (1.0 / self.exponent)))

    def seconds(self, full_speed_seconds: float, limit: float) -> float:
        return full_speed_seconds * (self.clock_share / self.clock(limit) + 1.0 - self.clock_share)

    def watts(self, limit: float) -> float:
        return float(self.static_watts + self.dynamic_watts * self.clock(limit) ** self.exponent)

    def step_cost(self, limit: float, eta: float) -> float:
        seconds = self.seconds(1.0, limit)
        return cost_joules(self.watts(limit) * seconds, seconds, self.max_watts, eta)

    def best_limit(self, eta: float) -> float:
        limits = candidate_limits(self.min_watts, self.max_watts, self.max_watts)
        return min(limits, key=lambda limit: self.step_cost(limit, eta))


GPUS = (
    ModelledGpu("V100", 100.0, 250.0, 72.0, 176.0, 0.43, 1.9),
    ModelledGpu("A40", 100.0, 300.0, 68.0, 220.0, 0.36, 2.8),
    ModelledGpu("A100", 100.0, 400.0, 84.0, 300.0, 0.57),
    ModelledGpu("H100", 200.0, 700.0, 143.0, 540.0, 0.8),
)


class VirtualMark:
    """A moment whose energy is known once the next tick has passed."""

    def __init__(self, training: VirtualTraining, time_seconds: float) -> None:
        self._training = training
        self.time_seconds = time_seconds
        self.failed = False

    @property
    def energy(self) -> Energy | None:
        return self._training.energy_at(self.time_seconds)

    @property
    def settled(self) -> bool:
        return self.failed or self.energy is not None


class VirtualTraining:
    """One run: the agent's and the meter's part, and the loop that trains."""

    def __init__(
        self,
        gpu: ModelledGpu,
        *,
        step_seconds: float,
        steps_per_epoch: int,
        tick_seconds: float = 0.1,
        noise: float = 0.0,
        between_seconds: float = 0.0,
        between_watts: float = 60.0,
        agent_seconds: float = 0.002,
        eta: float = 0.5,
        known: tuple = (),
        seed: int = 0,
        dry_run: bool = False,
    ) -> None:
        self.gpu, self.eta = gpu, eta
        self.step_seconds, self.steps_per_epoch = step_seconds, steps_per_epoch
        self.between_seconds, self.between_watts = between_seconds, between_watts
        self.now, self.limit, self.steps, self.epochs = 0.0137, gpu.max_watts, 0, 0
        self.wishes: list[float | None] = []
        self.status = AgentStatus(connected=True, error="")
        self.problem = ""
        self._chance, self._noise = random.Random(seed), noise
        self._tick, self.agent_seconds = tick_seconds, agent_seconds
        self._dry_run, self.notices = dry_run, Notices()
        self._grants: list[tuple[float, float | None]] = []
        self._corners = [(0.0, 0.0)]  # time, joules: true energy is linear in between
        self.ledger = Ledger()
        facts = GpuFacts(
            "GPU-v", gpu.name, "1", True, gpu.min_watts, gpu.max_watts, gpu.max_watts, True
        )
        self.control = PowerControl(
            facts,
            PowerWishes(eta=eta, known=known),
            self,
            self,
            self.ledger,
            self.notices,
            Steps(steps_per_epoch),
            clock=lambda: self.now,
        )

    # ---- the agent ------------------------------------------------------------

    def want_power_limit(self, uuid: str, watts: float) -> None:
        self.wishes.append(watts)
        self._grants.append((self.now + self.agent_seconds, watts))

    def release(self, uuid: str) -> None:
        self.wishes.append(None)
        self._grants = [(self.now, None)]

    def lose_lease(self) -> None:
        """Someone kills the agent: limits are back, and what was granted is gone."""
        self.limit = self.gpu.max_watts
        self.status = replace(self.status, leases={}, losses=self.status.losses + 1)

    def take_lease_again(self) -> None:
        wish = next(wish for wish in reversed(self.wishes) if wish is not None)
        self._grants = [(self.now, wish)]

    def _obey(self) -> None:
        while self._grants and self._grants[0][0] <= self.now:
            _, watts = self._grants.pop(0)
            if watts is None:
                self.limit, leases = self.gpu.max_watts, {}
            else:
                if not self._dry_run:
                    self.limit = min(max(watts, self.gpu.min_watts), self.gpu.max_watts)
                lease = Lease("s", "GPU-v", 1, watts, self.limit, self.gpu.max_watts)
                leases = {"GPU-v": replace(lease, dry_run=self._dry_run)}
            self.status = replace(self.status, leases=leases)

    # ---- the meter ------------------------------------------------------------

    @property
    def period_seconds(self) -> float:
        return self._tick

    def mark(self, time_seconds: float | None = None) -> VirtualMark:
        return VirtualMark(self, self.now if time_seconds is None else time_seconds)

    def energy_at(self, time: float) -> Energy | None:
        """As the edges of the counter tell: linear between ticks, known after the next one."""
        before = math.floor(time / self._tick) * self._tick
        after = before + self._tick
        if after > self.now:
            return None
        first, last = self.true_joules(before), self.true_joules(after)
        return Energy(first + (last - first) * (time - before) / self._tick, 0.0)

    def true_joules(self, time: float) -> float:
        low, high = 0, len(self._corners) - 1
        if time >= self._corners[high][0]:
            return self._corners[high][1]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._corners[middle][0] <= time else (low, middle)
        (t0, e0), (t1, e1) = self._corners[low], self._corners[high]
        return e0 + (e1 - e0) * (time - t0) / (t1 - t0)

    def _spend(self, seconds: float, watts: float) -> None:
        self.now += seconds
        self._corners.append((self.now, self._corners[-1][1] + seconds * watts))

    # ---- the loop --------------------------------------------------------------

    def train(self, epochs: int, lose_lease_at_step: int = -1) -> None:
        for _ in range(epochs):
            self.control.check_lease(self.steps)
            mark = self.mark()
            self.ledger.begin_phase(mark, self.steps, Phase.TRAINING)
            self.control.on_epoch_begin(self.now, self.steps)
            for _ in range(self.steps_per_epoch):
                self._obey()
                noisy = [1.0 + self._chance.gauss(0.0, self._noise) for _ in range(2)]
                self._spend(
                    self.gpu.seconds(self.step_seconds, self.limit) * noisy[0],
                    self.gpu.watts(self.limit) * noisy[1],
                )
                self.steps += 1
                if self.steps == lose_lease_at_step:
                    self.lose_lease()
                if self.steps >= self.control.wake_at:
                    self.control.on_step(self.steps)
            self.control.check_lease(self.steps)
            mark = self.mark()
            self.ledger.begin_phase(mark, self.steps, Phase.BETWEEN)
            self.control.on_epoch_end(self.now, self.steps)
            self.epochs += 1
            if self.between_seconds:
                self._spend(self.between_seconds, self.between_watts)
            self._obey()

    def train_until_held(self, most_epochs: int = 100_000) -> None:
        while not self.control.complete or self.control.held_watts is None:
            assert self.epochs < most_epochs, "the profile does not end"
            self.train(1)
