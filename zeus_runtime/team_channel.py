"""How the processes of a team talk: gathered to rank 0, and broadcast from there.

By a process group of our own over gloo, so that no message of ours comes between those of the
training, and none needs a GPU.  A process that ends closes its connections: whoever waits for
it learns that at once, and one that hangs is waited for as long as torch's own group would.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, List, Optional, Protocol

FACTS_BYTES = 8192
ORDERS_BYTES = 32768
_LENGTH_BYTES = 4


class ChannelBroken(Exception):  # noqa: N818 -- a state of the world, nobody's error
    """A process of the team is gone, or can't be understood; the text says what is known."""


class Channel(Protocol):
    """What a team needs; every process must make the same calls in the same order."""

    def gather(self, mine: bytes) -> List[bytes]:
        """Return what all processes told, by rank; on others than rank 0 nothing.

        Raises:
            ChannelBroken: not all of them are there.
        """
        ...

    def broadcast(self, mine: Optional[bytes]) -> bytes:
        """Return what rank 0 gave; the others give None.

        Raises:
            ChannelBroken: rank 0 is not there.
        """
        ...

    def all_here(self) -> None:
        """Return when rank 0 has heard all: a gather alone holds up nobody but rank 0.

        Raises:
            ChannelBroken: rank 0 is not there.
        """
        ...

    def agree(self) -> None:
        """Return when rank 0 knows that all have come here, and has said so.

        Raises:
            ChannelBroken: one of them may not have.  That rank 0's word of it has not come to all
                nobody can know.
        """
        ...

    def close(self) -> None:
        """Leave; whoever waits for this process need not wait longer."""
        ...


class TorchChannel:
    """A channel over torch.distributed.  Every process of the default group must make one.

    Args:
        rank: of this process.
        size: of the default group.

    Raises:
        ChannelBroken: the group could not be made.
    """

    def __init__(self, rank: int, size: int) -> None:
        import torch
        from torch import distributed

        self._torch, self._distributed = torch, distributed
        self._rank, self._size = rank, size
        try:
            self._group: Any = distributed.new_group(backend="gloo", timeout=_timeout_of_default())
        except (RuntimeError, ValueError) as error:
            raise ChannelBroken(f"no process group over gloo: {_first_line(error)}") from None

    def gather(self, mine: bytes) -> List[bytes]:
        """See `Channel`."""
        own = self._packed(mine, FACTS_BYTES)
        return [_unpacked(box) for box in self._gathered(own)]

    def broadcast(self, mine: Optional[bytes]) -> bytes:
        """See `Channel`."""
        box = self._empty(ORDERS_BYTES) if mine is None else self._packed(mine, ORDERS_BYTES)
        self._call(lambda: self._distributed.broadcast(box, src=0, group=self._group))
        return _unpacked(box)

    def all_here(self) -> None:
        """See `Channel`."""
        box = self._empty(1)
        self._call(lambda: self._distributed.broadcast(box, src=0, group=self._group))

    def agree(self) -> None:
        """See `Channel`."""
        self._gathered(self._empty(1))
        self.all_here()

    def close(self) -> None:
        """See `Channel`."""
        group, self._group = self._group, None
        if group is not None and self._distributed.is_initialized():
            try:
                self._distributed.destroy_process_group(group)
            except (RuntimeError, ValueError, AssertionError):
                return  # it went with the default group, or its connections are broken already

    def _gathered(self, own: Any) -> List[Any]:
        """Return the boxes of all, by rank; on others than rank 0 none."""
        boxes = [] if self._rank != 0 else [self._torch.empty_like(own) for _ in range(self._size)]
        self._call(lambda: self._distributed.gather(own, boxes or None, dst=0, group=self._group))
        return boxes

    def _empty(self, size_bytes: int) -> Any:
        # The script may have made another device the default one.
        return self._torch.zeros(size_bytes, dtype=self._torch.uint8, device="cpu")

    def _packed(self, message: bytes, size_bytes: int) -> Any:
        room = size_bytes - _LENGTH_BYTES
        if len(message) > room:
            raise ChannelBroken(f"a message of {len(message)} bytes does not fit into {room}")
        data = len(message).to_bytes(_LENGTH_BYTES, "big") + message
        return self._torch.frombuffer(
            bytearray(data.ljust(size_bytes, b"\0")), dtype=self._torch.uint8
        )

    def _call(self, collective: Any) -> None:
        if self._group is None:
            raise ChannelBroken("this process has left")
        try:
            collective()
        except (RuntimeError, ValueError) as error:
            raise ChannelBroken(_first_line(error)) from None


def _timeout_of_default() -> Optional[timedelta]:
    """Return the time-out of the group that trains; None: torch does not tell, and has its own.

    A new group would have that of its backend, whatever the script has asked for.
    """
    import torch
    from torch import distributed

    world: Any = distributed.group.WORLD
    for device in ("cuda", "cpu"):
        try:
            timeout = world._get_backend(torch.device(device)).options._timeout
        except (AttributeError, RuntimeError):
            continue
        if isinstance(timeout, timedelta):
            return timeout
    return None


def _unpacked(box: Any) -> bytes:
    data = bytes(box.numpy().tobytes())
    length = int.from_bytes(data[:_LENGTH_BYTES], "big")
    return data[_LENGTH_BYTES : _LENGTH_BYTES + length]


def _first_line(error: BaseException) -> str:
    """Return the line of an error that is for people; torch's go on with a stack."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
