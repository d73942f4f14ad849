"""Hypothesis strategies for problems, histories and situations that make little sense."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from tests.support.optimizer_histories import ARMS, GPU
from zeus_operator.optimizer.types import Observation, Problem, Situation, SweepPoint
from zeus_runtime.protocol import Outcome

GPUS = ("", GPU, "SimGPU-B")
sane_costs = st.one_of(st.just(0.0), st.floats(1e-9, 1e12), st.sampled_from((1.0, 100.0, 1e3)))
any_costs = st.one_of(
    sane_costs,
    st.sampled_from((math.nan, math.inf, -math.inf, -1.0, 5e-324, 1e-300, 1e300, 1.7e308)),
)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """From 1 to 20 batch sizes, any of them the default, on any terms."""
    sizes = draw(st.sets(st.integers(1, 1 << 17), min_size=1, max_size=20))
    return Problem(
        batch_sizes=tuple(sorted(sizes)),
        default_batch_size=draw(st.sampled_from(sorted(sizes))),
        max_epochs=draw(st.integers(1, 300)),
        max_attempts=draw(st.integers(1, 21)),
        exploration_share=draw(st.sampled_from((0.0, 0.01, 0.05, 1.0))),
        bound_every_history=draw(st.booleans()),
    )


@st.composite
def histories(
    draw: st.DrawFn,
    sizes: tuple[int, ...] = (*ARMS, 48),
    costs: st.SearchStrategy[float] = sane_costs,
    longest: int = 20,
) -> tuple[Observation, ...]:
    """Any order of any outcomes at `sizes`."""
    observations = []
    for number in range(draw(st.integers(0, longest))):
        epochs = draw(st.integers(0, 60))
        swept = st.builds(SweepPoint, st.sampled_from(sizes), costs)
        metrics = st.one_of(st.floats(-2, 2), st.sampled_from((math.nan, math.inf)))
        steps = st.lists(st.tuples(st.integers(1, 60), metrics), max_size=4)
        observations.append(
            Observation(
                attempt_id=number + 1,
                recurrence=draw(st.integers(1, 20)),
                attempt=draw(st.integers(1, 5)),
                batch_size=draw(st.sampled_from(sizes)),
                outcome=draw(st.sampled_from(Outcome)),
                epochs=epochs,
                cost_joules=draw(costs),
                epoch_cost_joules=draw(st.one_of(st.none(), costs)),
                gpu_model=draw(st.sampled_from(GPUS)),
                gpu_count=draw(st.integers(1, 4)),
                milestones=tuple(sorted(draw(steps))),
                full_power_epoch_cost_joules=draw(st.one_of(st.none(), costs)),
                sweep=tuple(draw(st.lists(swept, max_size=3))),
                sweep_cost_joules=draw(costs),
            )
        )
    return tuple(observations)


@st.composite
def situations(draw: st.DrawFn, sizes: tuple[int, ...] = ARMS) -> Situation:
    """Any situation; the GPU may be one that nothing ran on."""
    some = st.lists(st.sampled_from(sizes), max_size=4).map(tuple)
    return Situation(
        recurrence=draw(st.integers(1, 30)),
        failed=draw(some),
        in_flight=draw(some),
        gpu_model=draw(st.sampled_from((*GPUS, "SimGPU-C"))),
    )
