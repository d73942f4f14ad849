"""What the trace files do not say of a workload: its target, its default, how long it may train."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeus_operator.simulate.rows import TraceError


@dataclass(frozen=True)
class TraceJob:
    """What a trace file does not say of a workload."""

    network: str
    optimizer: str
    target: float
    max_epochs: int
    default_batch_size: int
    higher_is_better: bool


PAPER_JOBS: Mapping[str, TraceJob] = {
    "cifar100": TraceJob("shufflenetv2", "adadelta", 0.6, 100, 1024, True),
    "imagenet": TraceJob("resnet50", "adadelta", 0.65, 100, 256, True),
    "librispeech": TraceJob("deepspeech2", "adamw", 40.0, 16, 256, False),
    "movielens-1m": TraceJob("ncf", "adam", 0.41, 100, 1024, True),
    "sentiment140": TraceJob("bert_base_uncased", "adamw", 0.84, 10, 128, True),
    "squad": TraceJob("bert_base_uncased", "adamw", 84.0, 6, 32, True),
}
"""The jobs of the paper (NSDI'23, table 1)."""

_FIELDS = tuple(field.name for field in dataclasses.fields(TraceJob))


def load_jobs(path: Path) -> dict[str, TraceJob]:
    """Read a jobs file: JSON, workload -> the fields of `TraceJob`.

    Raises:
        TraceError: the file is not of that form; the text names the workload and field.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TraceError(f"{path} is missing") from None
    except OSError as error:
        raise TraceError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise TraceError(f"{path}: not JSON: {error}") from None
    if not isinstance(raw, dict) or not raw:
        raise TraceError(f"{path}: must be an object of workloads, each with {', '.join(_FIELDS)}")
    return {name: _job(f"{path}, {name}", fields) for name, fields in raw.items()}


def _job(where: str, fields: Any) -> TraceJob:
    if not isinstance(fields, dict) or set(fields) != set(_FIELDS):
        found = ", ".join(fields) if isinstance(fields, dict) else repr(fields)
        raise TraceError(f"{where}: needs exactly {', '.join(_FIELDS)}; found: {found}")
    for name in ("network", "optimizer"):
        if not isinstance(fields[name], str) or not fields[name]:
            raise TraceError(f"{where}, {name}: must be a text, not {fields[name]!r}")
    for name in ("max_epochs", "default_batch_size"):
        value = fields[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TraceError(f"{where}, {name}: must be a whole number from 1, not {value!r}")
    target = fields["target"]
    if isinstance(target, bool) or not isinstance(target, int | float) or not math.isfinite(target):
        raise TraceError(f"{where}, target: must be a finite number, not {target!r}")
    if not isinstance(fields["higher_is_better"], bool):
        value = fields["higher_is_better"]
        raise TraceError(f"{where}, higher_is_better: must be true or false, not {value!r}")
    return TraceJob(**{**fields, "target": float(target)})
