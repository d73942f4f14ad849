"""The report: one HTML page that needs nothing else, neither files nor a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files

import jinja2
from markupsafe import Markup

from zeus_operator.records import AttemptRecord, RecurrenceKind, RecurrenceRecord
from zeus_operator.report import charts, power_chart, units
from zeus_operator.report.estimate import Estimate
from zeus_operator.report.findings import last_result
from zeus_operator.report.model import ReportData
from zeus_operator.report.savings import Comparison, Saving
from zeus_operator.report.words import headline, interval_words, outcome_words, why_not_known


@dataclass(frozen=True)
class Figure:
    """One figure with its heading and what it shows; `svg` is safe to place in the page."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Tile:
    """One quantity's saving with its interval, overall and where the job has converged to."""

    name: str
    overall: str
    interval: str
    converged: str
    tone: str


@dataclass(frozen=True)
class TableRow:
    """One line of the table of means."""

    name: str
    cells: tuple[str, ...]
    muted: bool = False


@dataclass(frozen=True)
class DecisionRow:
    """One attempt as the page lists it."""

    label: str
    kind: str
    batch_size: int
    outcome: str
    tone: str
    epochs: int
    energy: str
    time: str
    limit: str
    cost: str
    metric: str
    reason: str
    note: str


def render(data: ReportData) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        data=data,
        headline=headline(data.savings),
        tiles=list(_tiles(data)),
        figures=list(_figures(data)),
        means=list(_means(data)),
        decisions=list(_decisions(data)),
        facts=list(_facts(data)),
        generated=data.generated_at.strftime("%Y-%m-%d %H:%M UTC"),
        version=version("zeus-operator"),
    )


def _template(name: str) -> str:
    return files("zeus_operator.report").joinpath("templates", name).read_text(encoding="utf-8")


def _tiles(data: ReportData) -> Iterator[Tile]:
    overall, converged = data.savings.overall, data.savings.converged
    for name, ours, last in (
        ("cost", overall.cost, converged.cost),
        ("energy", overall.energy, converged.energy),
        ("time", overall.time, converged.time),
    ):
        if ours is None:
            continue
        tone = "plain" if not ours.is_clear else "good" if ours.fraction > 0 else "bad"
        yield Tile(
            name=name,
            overall=units.percent(ours.fraction),
            interval=units.interval(ours.low, ours.high),
            converged=_converged(last, data.savings.converged),
            tone=tone,
        )


def _converged(saving: Saving | None, comparison: Comparison) -> str:
    if saving is None:
        why = why_not_known(comparison) or "it was not measured"
        return f"In the last third: not known yet, {why}"
    bounds = units.interval(saving.low, saving.high)
    return f"{units.percent(saving.fraction)} in the last third ({bounds})"


def _figures(data: ReportData) -> Iterator[Figure]:
    default = data.savings.default_cost
    preference = data.spec.objective.energy_preference
    if data.compared:
        yield Figure(
            "Cost of each recurrence",
            f"Cost = {preference} x energy + (1 - {preference}) x largest power x time. All "
            "attempts of a recurrence count, the profiling of power limits included. The band is "
            "the 95 % interval of what the default is expected to cost.",
            Markup(charts.cost_per_recurrence(data.compared, default)),  # noqa: S704 - our own SVG
        )
        # A sum from somewhere in the middle would say nothing.
        if default is not None and data.compared_learned and not data.missing:
            drawing = charts.cumulative_cost(data.compared_learned, default)
            yield Figure(
                "Cost so far",
                "What the learned recurrences cost together, against as many finished models of "
                "the default.",
                Markup(drawing),  # noqa: S704 - our own SVG
            )
    if data.learned:
        sizes = data.spec.batch_size
        yield Figure(
            "Batch sizes tried",
            "Every attempt, and how it ended. Attempts of one recurrence stand side by side.",
            Markup(  # noqa: S704 - our own SVG
                charts.batch_sizes_tried(data.learned, sizes.choices, sizes.default)
            ),
        )
    if data.curves:
        yield Figure(
            "Power limits",
            "Measured while training, the latest profile of each batch size. The ring marks the "
            "limit of least cost.",
            Markup(power_chart.power_limits(data.curves)),  # noqa: S704 - our own SVG
        )


def _means(data: ReportData) -> Iterator[TableRow]:
    overall, converged = data.savings.overall, data.savings.converged
    if overall.cost is not None:
        yield _mean_row(
            f"default configuration ({data.savings.default_runs} runs)",
            [s.default if s else None for s in (overall.cost, overall.energy, overall.time)],
        )
    sides = [("learned, all", overall), ("learned, last third", converged)]
    if data.savings.control:
        sides.insert(1, ("default runs included", data.savings.with_control))
    for name, comparison in sides:
        savings = (comparison.cost, comparison.energy, comparison.time)
        if comparison.cost is None:
            continue
        yield _mean_row(
            f"{name} ({comparison.recurrences} recurrences)",
            [s.learned if s else None for s in savings],
        )
        yield TableRow(
            "saved", tuple(units.percent(s.fraction if s else None) for s in savings), muted=True
        )
        yield TableRow("95 % interval", tuple(interval_words(s) for s in savings), muted=True)


def _mean_row(name: str, estimates: Sequence[Estimate | None]) -> TableRow:
    shown = (units.joules, units.joules, units.seconds)
    return TableRow(
        name,
        tuple(show(e.mean if e else None) for e, show in zip(estimates, shown, strict=True)),
    )


def _decisions(data: ReportData) -> Iterator[DecisionRow]:
    for recurrence in (*data.learned, *data.control):
        for attempt in recurrence.attempts:
            yield _decision(recurrence, attempt)


def _decision(recurrence: RecurrenceRecord, attempt: AttemptRecord) -> DecisionRow:
    result = last_result(attempt)
    many = len(recurrence.attempts) > 1
    marker = charts.OUTCOMES.get(attempt.outcome) if attempt.outcome else None
    tones = {"o": "good", "v": "warn"}
    return DecisionRow(
        label=f"{recurrence.ordinal}.{attempt.number}" if many else str(recurrence.ordinal),
        kind="control" if recurrence.kind is RecurrenceKind.CONTROL else "learned",
        batch_size=attempt.decision.batch_size,
        outcome=outcome_words(attempt.outcome),
        tone=tones.get(marker[0], "bad") if marker else "plain",
        epochs=attempt.epochs,
        energy=units.joules(attempt.energy_joules),
        time=units.seconds(attempt.time_seconds),
        limit=units.watts(attempt.power_limit_watts),
        cost=units.joules(attempt.cost_joules),
        metric=units.number(attempt.best_metric),
        reason=attempt.decision.sentence,
        note=attempt.detail or (result.note if result else ""),
    )


def _facts(data: ReportData) -> Iterator[tuple[str, str]]:
    spec, where = data.spec, data.environment
    metric = spec.objective.metric
    comparison = "at least" if metric.mode.value == "Max" else "at most"
    yield "GPU", ", ".join(where.gpu_models) or "none that can be measured"
    if where.gpu_counts:
        yield "GPUs of a run", ", ".join(map(str, where.gpu_counts))
    if where.gpu_drivers:
        yield "Driver", ", ".join(where.gpu_drivers)
    yield (
        "Target",
        f"metric {comparison} {metric.target}, in at most {spec.objective.max_epochs} epochs",
    )
    yield "Energy preference", spec.objective.energy_preference
    yield "Batch sizes", ", ".join(map(str, spec.batch_size.choices))
    yield "Default batch size", str(spec.batch_size.default)
    yield "Power limits", f"{spec.power.min_percent} to {spec.power.max_percent} % of the default"
    yield "Policy and spec.mode", f"{data.job.policy}, {spec.mode.value}"
    yield "Seed", str(data.job.seed)
    savings = data.savings
    if savings.learned_failed or savings.control_failed:
        yield (
            "Without a model",
            f"{savings.learned_failed} learned and {savings.control_failed} default recurrences; "
            "what they cost is counted",
        )
    if savings.left_out:
        yield (
            "Left out of the savings and costs",
            "; ".join(f"{item.recurrences} {item.terms}" for item in savings.left_out),
        )
    if savings.unmeasured:
        yield "Without a measured cost", f"{savings.unmeasured} recurrences, left out"
