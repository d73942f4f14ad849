"""Why a GPU's clocks are lower than they could be: NVML's bit mask in words.

The bits are nvmlClocksEventReasons of NVML's device enumerations; earlier drivers
call the same ones throttle reasons.
"""

from __future__ import annotations

_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
UNKNOWN_REASON = "other"  # a bit that NVML gets later
REASONS = (*_REASONS.values(), UNKNOWN_REASON)
"""Every name that `reasons_of` may return."""


def reasons_of(mask: int) -> frozenset[str]:
    """Return the names of the bits that are set."""
    names = {name for bit, name in _REASONS.items() if mask & bit}
    if mask & ~sum(_REASONS):
        names.add(UNKNOWN_REASON)
    return frozenset(names)
