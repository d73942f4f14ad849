"""What can be switched on a simulated GPU while clients run."""

from __future__ import annotations

from enum import IntFlag

UNTIL_CLEARED = float("inf")

FAULTS = (
    "lost",
    "vanished",
    "no_permission",
    "unsupported",
    "error",
    "throttle",
    "set_ignored",
    "enforced_cap_watts",
    "slow_seconds",
    "hang_seconds",
)
"""Live faults of a device; 0 is off.  docs/reference/gpu-simulator.md describes each."""


class Unsupported(IntFlag):
    """Groups of calls: a device can be made to lack them, or to answer an error to them alone."""

    POWER_SET = 1
    ENERGY_COUNTER = 2
    POWER_USAGE = 4
    LIMIT_GET = 8
    PERSISTENCE = 16
    CLOCK_REASONS = 32
    PROCESSES = 64
    MIG = 128
    MINOR_NUMBER = 256


class Scope(IntFlag):
    """Which calls an error, a hang or a delay applies to."""

    READS = 1
    WRITES = 2
    ALL = 3


class Throttle(IntFlag):
    """Clock event reasons, as NVML's bits; the idle and the power cap's come by themselves."""

    USER_CLOCKS = 0x02
    HW_SLOWDOWN = 0x08  # halves the clock, as do the hardware's thermal slow-down and the brake
    SYNC_BOOST = 0x10
    SW_THERMAL = 0x20  # the clock is 80 % at most
    HW_THERMAL = 0x40
    POWER_BRAKE = 0x80
