"""The cost of training, in joules (NSDI'23, equation 2)."""

from __future__ import annotations


def cost_joules(
    energy_joules: float, time_seconds: float, max_power_watts: float, eta: float
) -> float:
    """Return `eta * energy + (1 - eta) * max_power * time`.

    Args:
        energy_joules: summed over the GPUs.
        time_seconds: wall time.
        max_power_watts: largest settable power limit, summed over the GPUs.
        eta: energy preference in [0, 1]; 1 counts only energy, 0 only time.
    """
    return eta * energy_joules + (1.0 - eta) * max_power_watts * time_seconds
