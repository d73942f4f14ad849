"""The numbers of policy `structured`.  Logarithms are natural, positions are log2(b / b0)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """Priors and weights: round values on a plateau, fitted to no single workload.

    Args:
        epochs_level: prior mean of ln(epochs to the target) at the default.
        epochs_slope: more of it per doubling of the batch size.
        epochs_curve: more of it per doubling, squared.
        epochs_level_sd, epochs_slope_sd, epochs_curve_sd, epochs_own_sd: prior
            standard deviations of level, slope and curve, and off the quadratic.
        run_sd: prior standard deviation of ln(epochs) between runs of an arm,
            worth `run_sd_weight` runs; never believed to be under `run_sd_floor`.
        run_sd_pool: runs of another arm that count at most for the spread of one's own.
        cost_slope: ln(cost per epoch) per doubling of the batch size.
        cost_level_sd, cost_slope_sd, cost_curve_sd, cost_own_sd: as for epochs.
        measurement_sd: of a measured cost per epoch, relative.
        sweep_sd: of a cost per epoch that a throughput sweep told.
        sweep_reach: doublings from the default within which the sweep measures.
        transfer_sd: of an arm's relative cost carried over from another GPU model.
        hazard: chance per doubling that arms further out stop reaching the target.
        luck: chance that one failure to reach it was only bad luck.
        gap_floor, gap_root: standard deviation of a learning curve's gap g to the
            target is `gap_floor + gap_root sqrt(g)`.
        curve_reach: doublings over which a learning curve tells of other arms.
        hint_weight: what a stopped run tells, as a share of what its curve says.
        horizon: later recurrences for which a gain is counted.
        step: doublings from a proven arm within which an arm may be tried.
        explorations: failed attempts of a recurrence after which only what is proven runs.
        patience: an arm stopped unproven in recurrence t is tried again from
            `patience * t` on.
        leave_factor: what leaving a run under way is taken to cost, in best runs.
        unproven_cap: most an attempt at an unproven arm may cost, in best costs.
        proven_cap, proven_sds: most one at a proven arm may: so many best costs, or so
            many standard deviations over its own typical cost, whichever is more.
        budget_share: share of the allowed extra cost that is planned with; the rest is
            room for what the plan can't foresee.
        run_budget_factor: a run under way may use so many times what was planned.
        caution: standard deviations that arms count dearer than believed where they
            stand in for the default.
    """

    epochs_level: float = 1.6
    epochs_slope: float = 0.25
    epochs_curve: float = 0.02
    epochs_level_sd: float = 2.0
    epochs_slope_sd: float = 0.3
    epochs_curve_sd: float = 0.06
    epochs_own_sd: float = 0.05
    run_sd: float = 0.2
    run_sd_weight: float = 4.0
    run_sd_pool: float = 2.0
    run_sd_floor: float = 0.03
    cost_slope: float = -0.1
    cost_level_sd: float = 1.0
    cost_slope_sd: float = 0.4
    cost_curve_sd: float = 0.06
    cost_own_sd: float = 0.01
    measurement_sd: float = 0.01
    sweep_sd: float = 0.03
    sweep_reach: float = 4.0
    transfer_sd: float = 0.2
    hazard: float = 0.02
    luck: float = 0.3
    gap_floor: float = 0.1
    gap_root: float = 0.4
    curve_reach: float = 2.0
    hint_weight: float = 0.7
    horizon: float = 5.0
    step: float = 2.0
    explorations: int = 3
    patience: float = 2.0
    leave_factor: float = 2.0
    unproven_cap: float = 1.5
    proven_cap: float = 4.0
    proven_sds: float = 3.0
    budget_share: float = 0.4
    run_budget_factor: float = 1.1
    caution: float = 1.0
