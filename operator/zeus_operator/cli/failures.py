"""The program's exit codes, and the errors that carry one."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the exit status says; documented in docs/reference/zeusctl.md."""

    OK = 0
    RUN_FAILED = 1  # a recurrence reached no target, or the run could not go on
    WRONG_INPUT = 2  # the file, an option or the name of a job
    STORE_UNAVAILABLE = 3
    BUSY = 4  # another process runs this job
    INTERRUPTED = 130  # stopped cleanly by Ctrl-C or SIGTERM; the same command goes on


class CommandError(Exception):
    """A command can't do what was asked; each line of the text is one finding."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


class WrongInput(CommandError):  # noqa: N818 - what it is, not that it is an error
    """What the user gave is wrong; the text says what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.WRONG_INPUT)
