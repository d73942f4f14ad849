"""Where this process stands among those that train one model together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Mapping, Optional

from zeus_runtime.settings import processes_by_environment

ENV_LOCAL_RANK = "LOCAL_RANK"
ENV_DEVICES = "CUDA_VISIBLE_DEVICES"
ENV_MACHINES = ("PET_NODE_RANK", "JOB_COMPLETION_INDEX")
"""Number of the pod, from 0: of a PyTorchJob, and of an Indexed Job (a JobSet has such)."""


@dataclass(frozen=True)
class Place:
    """One process of a launcher such as torchrun.

    Args:
        rank: from 0; the one of rank 0 decides.
        size: how many processes there are.
        local_rank: from 0, on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process decides for all."""
        return self.rank == 0

    def own_devices(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """Return the environment with the one GPU of this process as the visible one.

        For where torch does not tell which GPU it uses: launchers give local rank n the n-th.
        """
        listed = environ.get(ENV_DEVICES)
        if listed is None:
            own = str(self.local_rank)
        else:
            entries = [entry.strip() for entry in listed.split(",")]
            if len(entries) == 1:
                return environ  # it was chosen for this process already
            own = entries[self.local_rank] if self.local_rank < len(entries) else ""
        return {**environ, ENV_DEVICES: own}


def torch_place(environ: Mapping[str, str] = os.environ) -> Optional[Place]:
    """Return the place in torch's process group; None: this process trains alone.

    Raises:
        RuntimeError: a launcher has started several, and their process group is not there yet.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        several = processes_by_environment(environ)
        if several > 1:
            raise RuntimeError(
                f"WORLD_SIZE={several}, but there is no process group: call "
                "torch.distributed.init_process_group before the training loader is made"
            )
        return None
    size = distributed.get_world_size()
    if size < 2:
        return None
    rank = distributed.get_rank()
    return Place(rank, size, local_rank_of(environ, rank))


def local_rank_of(environ: Mapping[str, str], rank: int) -> int:
    """Return the rank on this machine; a launcher that does not tell starts them on one.

    Where the rank is the number of the pod, each pod has one process.
    """
    try:
        return int(environ[ENV_LOCAL_RANK])
    except (KeyError, ValueError):
        is_of_a_pod = any(environ.get(name) == str(rank) for name in ENV_MACHINES)
        return 0 if is_of_a_pod else rank
