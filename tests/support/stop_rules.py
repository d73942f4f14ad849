"""Stop rules for tests of what carries and asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zeus_runtime.stopping import Level, StopRule

RULE = StopRule(
    log_epochs_mean=2.5,
    arm_variance=0.25,
    run_variance=0.0625,
    probability=0.9,
    best_cost_joules=100.0,
    cap_joules=150.0,
    budget_joules=80.0,
    horizon=4.0,
    leave_factor=2.0,
    max_epochs=40,
    levels=(Level(0.5, 1.25, 0.5), Level(0.8, 0.5, 0.25)),
)


class ScriptedRule(StopRule):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, answer: Callable[[int], bool]) -> None:
        object.__setattr__(self, "answer", answer)
        object.__setattr__(self, "asked", [])

    def goes_on(
        self, epochs: int, milestones: Sequence[tuple[int, float]], epoch_cost_joules: float
    ) -> bool:
        self.asked.append((epochs, tuple(milestones), epoch_cost_joules))  # type: ignore[attr-defined]
        return bool(self.answer(epochs))  # type: ignore[attr-defined]
