"""What to tell a caller about trouble with a device."""

from __future__ import annotations

from zeus_agent.gpu import GpuUnavailable
from zeus_agent.limits import Refused
from zeus_agent.nvml import Kind, NvmlFailure
from zeus_agent.worker import WorkerTimeout
from zeus_runtime.protocol import ErrorCode

DeviceTrouble = (NvmlFailure, WorkerTimeout, GpuUnavailable)

_CODES = {
    Kind.PERMISSION: ErrorCode.NO_PERMISSION,
    Kind.UNSUPPORTED: ErrorCode.NOT_SUPPORTED,
    Kind.LOST: ErrorCode.GPU_LOST,
    Kind.TRANSIENT: ErrorCode.NVML_TIMEOUT,
}


def refusal_for(error: NvmlFailure | WorkerTimeout | GpuUnavailable) -> Refused:
    """Return what to tell the caller about trouble with a device."""
    if isinstance(error, WorkerTimeout):
        return Refused(ErrorCode.NVML_TIMEOUT, str(error))
    if isinstance(error, GpuUnavailable):
        return Refused(ErrorCode.GPU_LOST, str(error))
    hint = (
        "; setting a power limit needs root (CAP_SYS_ADMIN)"
        if error.kind is Kind.PERMISSION
        else ""
    )
    return Refused(_CODES.get(error.kind, ErrorCode.NVML_ERROR), f"{error}{hint}")


def foreign_refusal(gpu_uuid: str, found_milliwatts: int) -> Refused:
    """Return the refusal of a wish for a GPU whose limit somebody else has changed."""
    return Refused(
        ErrorCode.FOREIGN_CHANGE,
        f"someone else has set {gpu_uuid} to {found_milliwatts / 1000:g} W; the agent leaves it "
        "alone until this lease is released",
        found_watts=found_milliwatts / 1000.0,
    )


def ignored_refusal(gpu_uuid: str, target_milliwatts: int, readback_milliwatts: int) -> Refused:
    """Return the refusal of a wish that the driver took and did not follow."""
    return Refused(
        ErrorCode.NVML_ERROR,
        f"the driver took {target_milliwatts / 1000:g} W for {gpu_uuid} without an error, but its "
        f"limit still is {readback_milliwatts / 1000:g} W",
    )


def unsteady_refusal(gpu_uuid: str) -> Refused:
    """Return the refusal of a wish for a GPU whose limit changes faster than it can be saved."""
    return Refused(
        ErrorCode.FOREIGN_CHANGE,
        f"someone else keeps changing the power limit of {gpu_uuid}; nothing was set",
    )


def session_over() -> Refused:
    """Return the refusal of a wish whose lease ended before it was done."""
    return Refused(ErrorCode.NOT_FOUND, "the session ended before the limit was set")


def dry_run_changed() -> Refused:
    """Return why a lease ends where a dry run begins or ends."""
    return Refused(
        ErrorCode.POLICY_DENIED,
        "a dry run of the node's policy has begun or ended, so this lease is over; ask again",
    )
