"""Puts the result into its file: in place, one `pwrite`, constant length.

A reader therefore never sees a part of one result and a part of another, and the
last one written survives SIGKILL of the writer.
"""

from __future__ import annotations

import os
from typing import Optional

from zeus_runtime.notices import Notices
from zeus_runtime.protocol import ProtocolError, Result, decode_result, encode_result


class ResultFile:
    """The file named by `ZEUS_RESULT_PATH`.  Never raises: what fails is said once.

    Args:
        path: None: nothing is written.
        size_bytes: constant length of the result.
        notices: takes the warning when writing fails.
    """

    def __init__(self, path: Optional[str], size_bytes: int, notices: Notices) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._notices = notices
        self._descriptor: Optional[int] = None

    def write(self, result: Result) -> bool:
        """Replace what the file holds; return whether that worked."""
        if self._path is None:
            return False
        try:
            if self._descriptor is None:
                # A termination log belongs to the kubelet: it is kept, not truncated or replaced.
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o644)
            _write_at_start(self._descriptor, encode_result(result, self._size_bytes))
        except (OSError, ProtocolError) as error:
            self._notices.warn(
                "result",
                f"the result can't be written to {self._path}: {error}. Training goes on, but "
                "nothing may be learned from this run",
            )
            return False
        return True

    def read(self) -> Optional[Result]:
        """Return what the file holds, whoever wrote it; None: nothing that can be read."""
        if self._path is None:
            return None
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return decode_result(os.read(descriptor, self._size_bytes))
            finally:
                os.close(descriptor)
        except OSError:
            return None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_at_start(descriptor: int, data: bytes) -> None:
    """Write `data` at offset 0 with one call.

    Raises:
        OSError: it failed, or only a part fitted.
    """
    if os.pwrite(descriptor, data, 0) != len(data):
        raise OSError("only a part was written; is the disk full?")
