"""What torch knows of the GPU that this process trains on."""

from __future__ import annotations

from typing import Optional

import torch

from zeus_runtime.callback_run import UsedGpu
from zeus_runtime.place import torch_place


def torch_gpu_uuid() -> Optional[str]:
    """Return the UUID of the GPU that torch uses; None: no GPU, or torch is too old to tell."""
    if not torch.cuda.is_available():
        return None
    device, place = torch.cuda.current_device(), torch_place()
    if place is not None and device == 0 and place.local_rank < torch.cuda.device_count():
        # A script may name its device in each call only, or set it later.
        device = place.local_rank
    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def used_gpu(device: torch.device) -> UsedGpu:
    """Return what a run needs to know of the device that trains."""
    if device.type != "cuda":
        return UsedGpu()
    return UsedGpu(torch_gpu_uuid(), torch.cuda.synchronize)
