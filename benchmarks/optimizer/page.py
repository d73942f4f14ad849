"""The page of all studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.optimizer import (
    ablations,
    bounds,
    overlaps,
    priors,
    regimes,
    run,
    sensitivity,
    synthetic,
)
from benchmarks.optimizer.figures import HARM, STUCK_SHARE, slashed, table_of
from benchmarks.optimizer.shared import ROOT, Folder, Result

STUDIES = (
    run.STUDY,
    synthetic.STUDY,
    ablations.STUDY,
    sensitivity.STUDY,
    regimes.STUDY,
    overlaps.STUDY,
    bounds.STUDY,
    priors.STUDY,
)
PLACE = "docs/explanation/optimizer-results.md"


def write(results: Mapping[str, Result], folders: Sequence[Folder]) -> None:
    """Write the page.

    Args:
        results: of every study, by name.
        folders: that they were measured on.
    """
    sections = [study.text(results[study.name]) for study in STUDIES]
    glance = _at_a_glance(results["run"], results["synthetic"])
    parts = [_introduction(folders, sections), glance, *sections]
    text = "\n".join(part.rstrip("\n") + "\n" for part in parts)
    (ROOT / PLACE).write_text(text, encoding="utf-8")


def _introduction(folders: Sequence[Folder], sections: Sequence[str]) -> str:
    return "\n".join(
        [
            "# Measured: the optimizer's policies on recorded runs",
            "",
            "<!-- Written by benchmarks/optimizer/run.py; do not edit. -->",
            "",
            "All of this page: `ZEUS_TRACES=<folders> python benchmarks/optimizer/run.py --write`. "
            "One section: the command beside it, without `--write` to look only.",
            "",
            table_of(
                ["section", "command"],
                [
                    [_title(text), f"`python benchmarks/optimizer/{study.name}.py`"]
                    for study, text in zip(STUDIES, sections, strict=True)
                ],
            ),
            "",
            "Workloads:",
            "",
            *(_folder(folder) for folder in folders),
            "- synthetic: drawn at random by a recipe, in a section of their own.",
            "",
            "The numbers of policy structured were chosen with the folders in sight, so their "
            "figures flatter it; the synthetic workloads played no part in that.",
            "",
            "A pair is a workload on a GPU model. Each run of a batch size draws one of its "
            "recorded runs, the same one under every policy of the same seed. Energy preference "
            "0.5.",
            "",
            "- Regret: (cost of N recurrences - N x cost of the best arm) / cost of the best arm. "
            "In brackets, its standard error.",
            "- Ratio: (regret + 0.05) / (regret of zeus + 0.05), a regret below 0 counted as 0; "
            "over pairs, the geometric mean.",
            "- Its 95% interval: workloads drawn anew with all of their GPU models, and seeds "
            "within the pairs, 1,000 times. With few workloads it is rough.",
            "- Cost: over that of always the default batch size at full power, which may be above "
            "1 while a policy learns. Dearer than 1.05 times that at any N from 10 to 50 counts as "
            "harm.",
            "- Stuck: a history whose 20th recurrence ended on an arm that costs over 1.2 times "
            "the best.",
            "",
        ]
    )


def _title(text: str) -> str:
    return text.split("\n", maxsplit=1)[0].removeprefix("## ")


def _folder(folder: Folder) -> str:
    names = sorted({workload.name for workload in folder.workloads})
    gpus = ", ".join(sorted({workload.gpu for workload in folder.workloads}))
    whose = (
        "the published measurements of NSDI'23"
        if folder.published
        else "ours: small workloads that were really trained, with seconds and watts borrowed from "
        "the published ones"
    )
    return f"- `{folder.name}`: {whose}; {', '.join(names)} on {gpus}."


def _at_a_glance(main: Result, synthetic: Result) -> str:
    """Return both policies on every set of workloads: what is won and where it falls short."""
    rows = []
    for part in main["folders"]:
        for name in ("structured", "zeus"):
            pairs = [pair[name] for pair in part["pairs"]]
            rows.append(
                [
                    part["title"],
                    name,
                    slashed(part["ratios"][:3]) if name == "structured" else "1",
                    slashed(part["costs"][name][:3]),
                    f"{sum(p['worst'][0] > HARM for p in pairs)} of {len(pairs)}, "
                    f"{max(p['worst'][0] for p in pairs):.3f}",
                    f"{sum(p['stuck'] > STUCK_SHARE for p in pairs)} of {len(pairs)}, "
                    f"{100 * max(p['stuck'] for p in pairs):.0f}%",
                ]
            )
    for name in ("structured", "zeus"):
        whole = synthetic["policies"][name]
        rows.append(
            [
                "synthetic",
                name,
                slashed(synthetic["ratios"]) if name == "structured" else "1",
                slashed(synthetic["cost"][name]),
                f"{whole['harmed']} of {whole['pairs']}, {whole['worst']:.3f}",
                f"{whole['stuck']} of {whole['pairs']}, {100 * whole['most_stuck']:.0f}%",
            ]
        )
    header = ["workloads", "policy", "regret / zeus, N = 10 / 20 / 50", "cost / default"]
    header += ["pairs over 1.05 x default, worst", "pairs over 5% stuck, worst"]
    return "\n".join(["## At a glance", "", table_of(header, rows), ""])
