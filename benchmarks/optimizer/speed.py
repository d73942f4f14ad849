"""How long a decision takes, cold and warm.

    python benchmarks/optimizer/speed.py [--arms 20] [--observations 1000] [--repeat 200]

Cold: the first question about a history, all of which is folded.  Warm: the history is one
observation longer than at the question before, as in an operator that goes on; its
observations are new objects each time, as they come from the store, or the same ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import replace

from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.types import Observation, Problem, Situation
from zeus_runtime.protocol import Outcome

GPU = "SimGPU-A"
COLD = 5


def history(arms: int, count: int) -> tuple[Problem, tuple[Observation, ...]]:
    """Return a job with learning curves, an arm every half doubling, and its history."""
    sizes = tuple(sorted({round(8 * 2 ** (arm / 2)) for arm in range(arms)}))
    best = len(sizes) // 2
    luck = random.Random(1)
    observations = []
    for number in range(1, count + 1):
        arm = luck.randrange(len(sizes))
        epochs = max(1, round((8 + 0.15 * (arm - best) ** 2) * luck.lognormvariate(0.0, 0.15)))
        unit = 1000.0 / (arm + 5)
        reached = luck.random() < 0.8
        top = 0.9 if reached else 0.5
        observations.append(
            Observation(
                attempt_id=number,
                recurrence=number,
                attempt=1,
                batch_size=sizes[arm],
                outcome=Outcome.REACHED if reached else Outcome.COST_EXCEEDED,
                epochs=epochs,
                cost_joules=unit * epochs,
                epoch_cost_joules=unit,
                gpu_model=GPU,
                milestones=tuple((n, top * n / epochs) for n in range(1, epochs + 1)),
            )
        )
    return Problem(sizes, sizes[min(best + 2, len(sizes) - 1)], max_epochs=100), tuple(observations)


def seconds(name: str, problem: Problem, seen: tuple[Observation, ...], repeat: int) -> list[float]:
    """Return the medians: cold, warm with new objects, warm with the same ones."""
    loaded: list[float] = []
    same: list[float] = []
    at = Situation(len(seen) + 1, gpu_model=GPU)
    cold = [_timed(name, problem, seen, at) for _ in range(COLD)]
    asked = policy(name)
    for times, renew in ((loaded, True), (same, False)):
        asked.choose(problem, seen[: -repeat - 1], at, 1)
        for count in range(len(seen) - repeat, len(seen)):
            known = tuple(replace(o) for o in seen[:count]) if renew else seen[:count]
            start = time.perf_counter()
            asked.choose(problem, known, at, 1)
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in (cold, loaded, same)]


def _timed(name: str, problem: Problem, seen: tuple[Observation, ...], at: Situation) -> float:
    asked = policy(name)
    start = time.perf_counter()
    asked.choose(problem, seen, at, 1)
    return time.perf_counter() - start


def main() -> None:
    """Measure both policies and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--observations", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=200)
    arguments = parser.parse_args()
    repeat = min(arguments.repeat, arguments.observations - 1)
    problem, seen = history(arguments.arms, arguments.observations)
    print(
        f"{len(problem.batch_sizes)} arms, {len(seen)} observations; medians in milliseconds: "
        f"cold of {COLD}, warm of {repeat}"
    )
    print("| policy | cold | warm, loaded anew | warm |")
    print("|---|---|---|---|")
    for name in POLICY_NAMES:
        cells = [f"{1000 * value:.2f}" for value in seconds(name, problem, seen, repeat)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
