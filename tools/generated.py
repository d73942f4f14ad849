"""Files of the tree that a tool generates: written, or held against what it would write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def write_or_check(
    files: Mapping[Path, Callable[[], str]], program: str, about: str | None, argv: list[str] | None
) -> int:
    """Write generated files, or say which are not current; return the exit code."""
    parser = argparse.ArgumentParser(prog=program, description=about)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", action="store_true", help="write the files")
    how.add_argument("--check", action="store_true", help="exit 1 if one is not current")
    options = parser.parse_args(argv)
    stale = 0
    for path, text in files.items():
        if options.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text():
            print(f"{path} is not current: run `{program} --write`", file=sys.stderr)
            stale += 1
    return 1 if stale else 0
