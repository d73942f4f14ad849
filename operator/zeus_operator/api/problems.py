"""What is wrong with a manifest: where, and what to do.  Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a manifest: where, and what is allowed there."""

    path: str
    message: str

    def __str__(self) -> str:
        """Return the line that is shown to the user."""
        return f"{self.path}: {self.message}" if self.path else self.message


class TemplateError(ValueError):
    """The template lacks what is needed or holds what is refused."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.problem = Problem(path, message)
