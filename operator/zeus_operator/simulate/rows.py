"""Rows of a trace file, and errors that say which file, line and column is wrong."""

from __future__ import annotations

import csv
import lzma
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


class TraceError(ValueError):
    """A trace file lacks what is needed; the text says which file, where, and what is allowed."""


@dataclass(frozen=True)
class Row:
    """One line of a CSV file; asking for a value checks it."""

    path: Path
    line: int
    values: Mapping[str, str | None]

    def text(self, column: str) -> str:
        """Return a text that is not empty."""
        value = self._raw(column)
        if not value:
            raise self.error(column, "must not be empty")
        return value

    def number(self, column: str) -> float:
        """Return a finite number."""
        value = self._parsed(column)
        if not math.isfinite(value):
            raise self.error(column, f"must be a finite number, not {self._raw(column)!r}")
        return value

    def positive(self, column: str) -> float:
        """Return a finite number above 0."""
        value = self.number(column)
        if value <= 0.0:
            raise self.error(column, f"must be above 0, not {self._raw(column)!r}")
        return value

    def whole(self, column: str) -> int:
        """Return a whole number of at least 1."""
        value = self.number(column)
        if value < 1.0 or value != int(value):
            raise self.error(column, f"must be a whole number from 1, not {self._raw(column)!r}")
        return int(value)

    def epoch(self, column: str) -> float:
        """Return a whole epoch from 1; infinite where the cell is empty or `nan`."""
        text = self._raw(column)
        if text.lower() in ("", "nan"):
            return math.inf
        return float(self.whole(column))

    def error(self, column: str, problem: str) -> TraceError:
        """Return an error about one cell of this row."""
        return TraceError(f"{self.path}, line {self.line}, column {column}: {problem}")

    def _raw(self, column: str) -> str:
        return (self.values.get(column) or "").strip()

    def _parsed(self, column: str) -> float:
        try:
            return float(self._raw(column))
        except ValueError:
            raise self.error(column, f"must be a number, not {self._raw(column)!r}") from None


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Return the rows of a CSV file with a header, packed by xz where its name ends in `.xz`.

    Args:
        path: the file.
        columns: those that must be there; others are ignored.

    Raises:
        TraceError: the file is missing, can't be read, or lacks a column.
    """
    with _open(path) as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise TraceError(
                f"{path}: the first line must name the columns {', '.join(columns)}; "
                f"missing: {', '.join(missing)}"
            )
        for values in reader:
            yield Row(path, reader.line_num, values)


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    try:
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8-sig", newline="") as packed:
                yield packed
        else:
            with path.open(encoding="utf-8-sig", newline="") as plain:
                yield plain
    except FileNotFoundError:
        raise TraceError(f"{path} is missing") from None
    except OSError as error:
        raise TraceError(f"{path}: can't be read: {error.strerror or error}") from None
    except (lzma.LZMAError, EOFError) as error:
        raise TraceError(f"{path}: not a whole xz file: {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: not a CSV file in UTF-8: {error}") from None
