"""What the agent has put on a device, and what it must put back: its claim on one GPU.

Pure.  Limits are milliwatts.
"""

from __future__ import annotations

from dataclasses import replace

from zeus_agent.limits import SavedLimit, is_near_any, is_same_limit


class Claim:
    """What is saved for one GPU, and which limits on the device are of our making.

    Args:
        gpu_uuid: the GPU.
    """

    def __init__(self, gpu_uuid: str) -> None:
        self.gpu_uuid = gpu_uuid
        self.saved: SavedLimit | None = None
        self.is_stored = False  # whether the disk is known to have just that
        self.was_reset = False  # whatever limit is found, the device lost ours
        self._confirmed_milliwatts: int | None = None

    @property
    def expected_milliwatts(self) -> int | None:
        """What the device has if nobody else, and no reset, has changed it; None: not known."""
        return None if self.was_reset or self.saved is None else self._confirmed_milliwatts

    def is_ours(self, milliwatts: int) -> bool:
        """Whether this limit, found on the device, is of our making or a reset's."""
        return self.was_reset or self.was_written(milliwatts)

    def was_written(self, milliwatts: int) -> bool:
        """Whether we may have written this limit."""
        written = () if self.saved is None else self.saved.written_milliwatts
        confirmed = self._confirmed_milliwatts
        ours = written if confirmed is None else (*written, confirmed)
        return is_near_any(milliwatts, ours)

    def is_in_place(self, milliwatts: int) -> bool:
        """Whether this limit, found on the device, is what it last had of us."""
        confirmed = self._confirmed_milliwatts
        return confirmed is not None and is_same_limit(milliwatts, confirmed)

    def has_come_late(self, milliwatts: int) -> bool:
        """Whether this limit, found in place of another one, is a write that had timed out."""
        written = () if self.saved is None else self.saved.written_milliwatts
        return is_near_any(milliwatts, written[-1:])

    def confirm(self, readback_milliwatts: int) -> None:
        """Note what the device has of us, as read back or seen."""
        self._confirmed_milliwatts = readback_milliwatts
        self.was_reset = False

    def given_back(self) -> None:
        """Note that the device has nothing of us any more."""
        self._confirmed_milliwatts = None
        self.was_reset = False

    def persistence_to_put_back(self, found: bool | None, *, enabling: bool) -> bool | None:
        """Return the persistence mode to save: what was found first, if it is to be changed."""
        known = None if self.saved is None else self.saved.previous_persistence
        if known is not None:
            return known
        return False if enabling and found is False else None

    def fresh(self, target: int, found: int, persistence_to_put_back: bool | None) -> SavedLimit:
        """Return what to save where what was found is to be given back."""
        return SavedLimit(self.gpu_uuid, found, (target,), persistence_to_put_back)

    def extended(self, target: int, found: int, persistence_to_put_back: bool | None) -> SavedLimit:
        """Return what to save before `target` is written over what is, mostly, of our making."""
        if self.saved is None:
            return self.fresh(target, found, persistence_to_put_back)
        # Until the write is done the device has what was found: it must still count as ours then.
        written = [found] if self.was_written(found) else []
        if self._confirmed_milliwatts is not None:
            written.append(self._confirmed_milliwatts)
        written.append(target)
        return replace(
            self.saved,
            written_milliwatts=tuple(dict.fromkeys(written)),
            previous_persistence=persistence_to_put_back,
        )

    def with_readback(self, readback: int) -> SavedLimit | None:
        """Return what to save after a write that the driver has rounded far; None: it is known.

        Only what is on disk tells the next agent that the device has its limit of us.
        """
        if self.saved is None or is_near_any(readback, self.saved.written_milliwatts):
            return None
        written = (*self.saved.written_milliwatts, readback)
        return replace(self.saved, written_milliwatts=written)

    def must_store(self, saved: SavedLimit) -> bool:
        """Whether `saved` is not known to be on disk."""
        return saved != self.saved or not self.is_stored

    def stored(self, saved: SavedLimit) -> None:
        """Note that `saved` is on disk."""
        self.saved = saved
        self.is_stored = True

    def not_stored(self, saved: SavedLimit) -> None:
        """Note that storing `saved` failed: the disk may have it, now or later, or not.

        Nothing was written for it, but an entry that may be there must be removed some day.
        """
        self.is_stored = False
        if self.saved is None:
            self.saved = replace(saved, written_milliwatts=())

    def forgotten(self) -> None:
        """Note that nothing is on disk any more."""
        self.saved = None
        self.is_stored = False
        self.given_back()
