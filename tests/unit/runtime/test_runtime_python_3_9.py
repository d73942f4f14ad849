"""The runtime runs in users' images, on Python 3.9.

Syntax and the newer names that are easy to reach for are checked everywhere.  Where a
Python 3.9 is at hand, every module is also imported, and a loop trained, on it.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

import zeus_runtime
from tests.support.runtime_lab import ROOT

SOURCES = sorted(Path(zeus_runtime.__file__).parent.glob("*.py"))
WITH_TORCH = {"dataloader", "huggingface", "lightning", "sweep_loader", "torch_gpu"}
NEWER_ARGUMENTS = {"slots", "kw_only", "strict", "match_args", "weakref_slot"}
NEWER_NAMES = {
    "pairwise", "batched", "aiter", "anext", "TypeAlias", "ParamSpec", "Self", "assert_never",
    "StrEnum", "UTC", "ExceptionGroup", "BaseExceptionGroup", "add_note",
    "tomllib", "EllipsisType", "NoneType", "UnionType", "bit_count", "root_dir",
}  # fmt: skip


def newer_than_3_9(source: str) -> list[str]:
    """Return what in `source` Python 3.9 does not know; annotations are never evaluated."""
    tree = ast.parse(source, feature_version=(3, 9))
    found = []
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for field in ("annotation", "returns")
        if (outer := getattr(node, field, None)) is not None
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in NEWER_ARGUMENTS:
            found.append(f"{node.arg}=")
        name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", "")
        if name in NEWER_NAMES:
            found.append(str(name))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            sides = (node.left, node.right)
            if id(node) not in annotations and any(is_type(side) for side in sides):
                found.append("X | Y")
    return found


def is_type(node: ast.expr) -> bool:
    """Whether it looks like a type and not like a flag or a set."""
    if isinstance(node, ast.Subscript):
        return is_type(node.value)
    if isinstance(node, ast.Constant):
        return node.value is None
    return isinstance(node, ast.Name) and (
        node.id in {"int", "float", "str", "bytes", "bool", "list", "dict", "tuple", "set"}
        or (node.id[0].isupper() and not node.id.isupper())
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_runtime_is_written_in_python_3_9(path: Path) -> None:
    source = path.read_text()
    assert newer_than_3_9(source) == []
    assert "from __future__ import annotations" in source or "def " not in source


@pytest.mark.parametrize(
    "source",
    [
        "from itertools import pairwise",
        "@dataclass(slots=True)\nclass A: ...",
        "list(zip(a, b, strict=True))",
        "Number = int | None",
        "kind = Dict[str, int] | Path",
        "import enum\nclass A(enum.StrEnum): ...",
    ],
)
def test_the_check_finds_what_is_newer(source: str) -> None:
    assert newer_than_3_9(source)


@pytest.mark.parametrize("source", ["match x:\n  case 1: ...", "try: ...\nexcept* OSError: ..."])
def test_the_check_finds_newer_syntax(source: str) -> None:
    with pytest.raises(SyntaxError):
        newer_than_3_9(source)


def test_annotations_may_be_newer() -> None:
    assert newer_than_3_9("def f(a: int | None) -> str | None: ...") == []


def python_3_9() -> Iterator[str]:
    """Yield the interpreters of that version that there are."""
    found = [shutil.which("python3.9")]
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    found += [str(path) for path in sorted(pyenv.glob("versions/3.9.*/bin/python3.9"))]
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is not None:
        command = [uv, "python", "find", "--no-project", "--offline", "3.9"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        found.append(shown.stdout.strip() or None)
    for python in found:
        if python is None:
            continue
        asked = [python, "-c", "import sys; print(sys.version_info[:2] == (3, 9))"]
        shown = subprocess.run(asked, capture_output=True, text=True, check=False)
        if shown.stdout.strip() == "True":
            yield python


def test_the_runtime_trains_on_python_3_9(tmp_path: Path) -> None:
    python = next(python_3_9(), None)
    if python is None:
        pytest.skip("there is no Python 3.9 here (uv python install 3.9)")
    (tmp_path / "pynvml.py").symlink_to(Path(pynvml.__file__))
    names = [path.stem for path in SOURCES if path.stem not in {"__init__", *WITH_TORCH}]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module('zeus_runtime.' + name)\n"
        "from zeus_runtime import TrainingRun\n"
        "run = TrainingRun(max_epochs=2, batch_size=16)\n"
        "while run.next_epoch():\n"
        "    run.end_step()\n"
        "    run.end_epoch()\n"
        "    run.report_metric(0.5)\n"
        "run.finish()\n"
        "print(run.epochs, [name for name in ('torch', 'numpy') if name in sys.modules])\n"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    environ["CUDA_VISIBLE_DEVICES"] = ""
    ended = subprocess.run(
        [python, "-B", "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "2 []\n"), ended.stderr
