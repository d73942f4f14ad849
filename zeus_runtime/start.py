"""Starts the run of this process, alone or as one of several."""

from __future__ import annotations

import os
from typing import Any, List, Mapping, Optional

from zeus_runtime.base_run import BaseRun
from zeus_runtime.follower_run import FollowerRun
from zeus_runtime.place import torch_place
from zeus_runtime.run import TrainingRun
from zeus_runtime.team_channel import Channel, ChannelBroken, TorchChannel
from zeus_runtime.team_member import Seat

Run = BaseRun
"""What `start_run` returns."""

_OF_RANK_0 = ("steps_per_epoch", "partial_last_step")
"""Arguments that only the process that decides needs."""


class _NoChannel:
    """Where no process group could be made: every process finds itself alone."""

    def __init__(self, why: str) -> None:
        self._why = why

    def gather(self, mine: bytes) -> List[bytes]:
        del mine
        raise ChannelBroken(self._why)

    def broadcast(self, mine: Optional[bytes]) -> bytes:
        del mine
        raise ChannelBroken(self._why)

    def all_here(self) -> None:
        raise ChannelBroken(self._why)

    def agree(self) -> None:
        raise ChannelBroken(self._why)

    def close(self) -> None:
        return


def start_run(*, environ: Mapping[str, str] = os.environ, **wishes: Any) -> Run:
    """Return the run of this process; arguments as of `run.TrainingRun` but `seat`.

    Where torch's default process group has several processes, each of them must call this, at
    the same place, and then the run's methods at the same places too: rank 0 decides for all.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: a launcher has started several processes that have no process group yet.
    """
    place = torch_place(environ)
    if place is None:
        return TrainingRun(environ=environ, **wishes)
    try:
        channel: Channel = TorchChannel(place.rank, place.size)
    except ChannelBroken as broken:
        channel = _NoChannel(str(broken))
    seat = Seat(place, channel)
    if place.leads:
        return TrainingRun(environ=environ, seat=seat, **wishes)
    for name in _OF_RANK_0:
        wishes.pop(name, None)
    return FollowerRun(environ=environ, seat=seat, **wishes)
