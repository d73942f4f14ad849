"""The few numbers of policy `structured`.  Logarithms are natural, positions are log2(b / b0)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """Priors and weights; the defaults come from other workloads and fit no single one.

    Args:
        epochs_level: prior mean of ln(epochs to the target) at the default.
        epochs_slope: more of it per doubling of the batch size.
        epochs_level_sd, epochs_slope_sd, epochs_curve_sd, epochs_own_sd: prior
            standard deviations of level, slope and curve, and off the quadratic.
        run_sd: prior standard deviation of ln(epochs) between runs of an arm,
            worth `run_sd_weight` runs; never believed to be under `run_sd_floor`.
        cost_slope: ln(cost per epoch) per doubling of the batch size.
        cost_level_sd, cost_slope_sd, cost_curve_sd, cost_own_sd: as for epochs.
        measurement_sd: of a measured cost per epoch, relative.
        transfer_sd: of an arm's relative cost carried over from another GPU model.
        success_weight, failure_weight: prior runs that reached and failed the target.
        reach: doublings over which a success or failure tells of its neighbours.
        horizon: later recurrences for which a gain is counted.
        failure_factor: cost of a failed attempt, in costs of the best known arm.
        threshold_factor: most an attempt may cost, in costs of the best known arm.
        patience: standard deviations of its own cost that a proven arm may run
            over before it is stopped.
    """

    epochs_level: float = 1.61
    epochs_slope: float = 0.2
    epochs_level_sd: float = 2.0
    epochs_slope_sd: float = 0.15
    epochs_curve_sd: float = 0.05
    epochs_own_sd: float = 0.02
    run_sd: float = 0.14
    run_sd_weight: float = 4.0
    run_sd_floor: float = 0.03
    cost_slope: float = -0.1
    cost_level_sd: float = 1.0
    cost_slope_sd: float = 0.5
    cost_curve_sd: float = 0.06
    cost_own_sd: float = 0.01
    measurement_sd: float = 0.01
    transfer_sd: float = 0.2
    success_weight: float = 0.85
    failure_weight: float = 0.15
    reach: float = 0.7
    horizon: float = 2.0
    failure_factor: float = 3.0
    threshold_factor: float = 2.0
    patience: float = 2.5
