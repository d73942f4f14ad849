"""What a run outside a ZeusJob says at its end."""

from __future__ import annotations

from zeus_runtime.protocol import Result


def summary(result: Result, problem: str) -> str:
    """Return the line that ends a run outside a ZeusJob."""
    parts = [f"{result.epochs} epochs in {result.time_seconds:.1f} s"]
    if result.energy_joules is not None:
        parts.append(f"{result.energy_joules:.0f} J on {result.gpu_model}")
    else:
        parts.append(f"energy unknown ({problem or 'not measured'})")
    if result.power_limit_watts is not None:
        parts.append(
            f"power limit {result.power_limit_watts:g} W, "
            f"chosen among {len(result.power_profile)} measured"
        )
    elif result.power_profile:
        parts.append(f"{len(result.power_profile)} power limits measured, none chosen yet")
    return ", ".join(parts)
