"""What `zeusctl simulate` is asked for, read and checked before anything is simulated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from zeus_operator.cli.failures import WrongInput
from zeus_operator.simulate.groups import JobGroup, load_groups
from zeus_operator.simulate.jobs import TraceJob, load_jobs
from zeus_operator.simulate.rows import TraceError
from zeus_operator.simulate.traces import datasets, gpus, jobs_of, load_workloads
from zeus_operator.simulate.workload import Workload


def read_workloads(
    folder: Path,
    jobs_file: Path | None,
    names: Collection[str],
    on_gpus: Collection[str],
    eta: float,
) -> tuple[list[Workload], list[str]]:
    """Return the workloads to simulate, and notes about what is left out.

    Args:
        folder: of the traces.
        jobs_file: what the traces do not say; None: the folder's own, else the paper's.
        names: workloads asked for; empty: all.
        on_gpus: GPU models asked for; empty: all.
        eta: energy preference.

    Raises:
        WrongInput: a file is missing or malformed, or what was asked for is not there.
    """
    try:
        jobs = jobs_of(folder) if jobs_file is None else load_jobs(jobs_file)
        held = datasets(folder)
        _check_names(folder, names, held, jobs)
        _check_gpus(folder, on_gpus)
        chosen = {name: job for name, job in jobs.items() if not names or name in names}
        workloads = load_workloads(folder, eta, chosen, on_gpus or None)
    except TraceError as error:
        raise WrongInput(str(error)) from None
    return workloads, _notes(workloads, names, on_gpus, held, jobs)


def _check_names(
    folder: Path, names: Collection[str], held: Sequence[str], jobs: Mapping[str, TraceJob]
) -> None:
    for name in names:
        if name not in held:
            raise WrongInput(f"--workload {name}: {folder} holds {', '.join(held) or 'none'}")
        if name not in jobs:
            raise WrongInput(
                f"--workload {name}: no job says its target and its default batch size; "
                f"add it to the file of --jobs (there are: {', '.join(jobs)})"
            )


def _check_gpus(folder: Path, asked: Collection[str]) -> None:
    found = gpus(folder)
    for gpu in asked:
        if gpu not in found:
            raise WrongInput(
                f"--gpu {gpu}: {folder} has no summary_power_{gpu}.csv; "
                f"GPU models there: {', '.join(found) or 'none'}"
            )


def _notes(
    workloads: Sequence[Workload],
    names: Collection[str],
    on_gpus: Collection[str],
    held: Sequence[str],
    jobs: Mapping[str, TraceJob],
) -> list[str]:
    notes = []
    unnamed = [name for name in held if name not in jobs]
    if unnamed and not names:
        notes.append(f"left out, no job says their target: {', '.join(unnamed)} (see --jobs)")
    pairs = {(workload.name, workload.gpu) for workload in workloads}
    asked_names = sorted(names) or sorted({name for name, _ in pairs})
    asked_gpus = sorted(on_gpus) or sorted({gpu for _, gpu in pairs})
    absent = [f"{n} on {g}" for n in asked_names for g in asked_gpus if (n, g) not in pairs]
    if absent:
        notes.append(f"left out, not measured: {', '.join(absent)}")
    return notes


def read_groups(
    path: Path, workloads: Sequence[Workload], names: Collection[str]
) -> tuple[list[JobGroup], list[str]]:
    """Return the groups of the workloads, and notes about what is left out.

    Args:
        path: the file of the groups.
        workloads: that will be simulated.
        names: workloads asked for; the groups of others go without a word. Empty: all.

    Raises:
        WrongInput: the file is missing or malformed, or none of its groups can be replayed.
    """
    try:
        groups = load_groups(path)
    except TraceError as error:
        raise WrongInput(str(error)) from None
    known = {workload.name for workload in workloads}
    kept = [group for group in groups if group.dataset in known]
    if not kept:
        raise WrongInput(
            f"{path}: no group is of a workload that is simulated ({', '.join(sorted(known))}); "
            f"its groups are of {', '.join(sorted({group.dataset for group in groups}))}"
        )
    others = Counter(
        g.dataset for g in groups if g.dataset not in known and (not names or g.dataset in names)
    )
    parts = [f"{count} of {name}" for name, count in sorted(others.items())]
    notes = [f"job groups left out, not in the traces: {', '.join(parts)}"] if parts else []
    return kept, notes
