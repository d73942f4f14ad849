"""The dashboard of one ZeusJob: what a run costs, what was chosen, how runs ended."""

from __future__ import annotations

from tools.dashboards.panels import Dashboard, Kind, Panel, Query, Row, Unit, Variable

_OF = 'namespace="$namespace", zeusjob="$zeusjob"'


def _job(metric: str, *labels: str) -> str:
    """Return the metric of the job that is looked at, whichever replica shows it."""
    return f"max({metric}{{{', '.join((*labels, _OF))}}})"


_NOW = Row(
    "So far",
    (
        Panel(
            "Batch size",
            "Last decided.",
            Unit.COUNT,
            (Query(_job("zeus_job_batch_size")),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Settled",
            "Whether the last recurrences agree on one batch size.",
            Unit.YES_NO,
            (Query(_job("zeus_job_converged")),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Energy of all runs",
            "Everything that was spent, failed attempts included.",
            Unit.JOULES,
            (Query(_job("zeus_job_energy_joules_total")),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Energy saved",
            "Against always running the default, since the job began.",
            Unit.JOULES,
            (Query(f"namespace_zeusjob:zeus_job_saved_energy_joules:max{{{_OF}}}"),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Last run ended",
            "With or without a model.",
            Unit.AGO,
            (Query(f"{_job('zeus_job_last_run_end_timestamp_seconds')} * 1000"),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Failed in a row",
            "Recurrences without a model since the last one with.",
            Unit.COUNT,
            (Query(_job("zeus_job_failures_in_row")),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
    ),
)

_RUNS = Row(
    "From run to run",
    (
        Panel(
            "Cost of a run",
            "Of the last recurrence, all its attempts. Cost weighs energy and time as "
            "energyPreference says; it is what batch size and power limit are chosen by.",
            Unit.JOULES,
            (Query(_job("zeus_job_last_run_cost_joules"), "cost"),),
            steps=True,
        ),
        Panel(
            "Energy of a run",
            "Of the last recurrence, all its attempts.",
            Unit.JOULES,
            (Query(_job("zeus_job_last_run_energy_joules"), "energy"),),
            width=6,
            steps=True,
        ),
        Panel(
            "Time of a run",
            "Of the last recurrence, all its attempts.",
            Unit.SECONDS,
            (Query(_job("zeus_job_last_run_time_seconds"), "time"),),
            width=6,
            steps=True,
        ),
        Panel(
            "Batch size",
            "Last decided. While it is explored it goes up and down.",
            Unit.COUNT,
            (Query(_job("zeus_job_batch_size"), "batch size"),),
            steps=True,
        ),
        Panel(
            "Cost saved, with its interval",
            "Fraction saved so far against always running the default, and the bounds of its 95 % "
            "interval. It begins when enough is known; below 0 it is lost.",
            Unit.RATIO,
            (
                Query(_job("zeus_job_saved_ratio", 'of="cost"'), "saved"),
                Query(_job("zeus_job_saved_ratio_low", 'of="cost"'), "at least"),
                Query(_job("zeus_job_saved_ratio_high", 'of="cost"'), "at most"),
            ),
            least=None,
            steps=True,
        ),
        Panel(
            "How attempts ended",
            "All attempts of the job by outcome.",
            Unit.COUNT,
            (
                Query(
                    f"sort_desc(max by (outcome) (zeus_operator_attempts_total{{{_OF}}}))",
                    "{{outcome}}",
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "How recurrences ended",
            "All recurrences of the job.",
            Unit.COUNT,
            (
                Query(
                    f"sort_desc(max by (state) (zeus_operator_recurrences_total{{{_OF}}}))",
                    "{{state}}",
                ),
            ),
            kind=Kind.BARS,
        ),
    ),
)

_RUNNING = Row(
    "What runs now",
    (
        Panel(
            "Epochs",
            "Complete epochs, as the run has reported to the agent. Empty while nothing runs.",
            Unit.COUNT,
            (Query(f"zeus_agent_run_epochs{{{_OF}}}", "{{pod}}"),),
            width=8,
            steps=True,
        ),
        Panel(
            "Validation metric",
            "Last and best value. Empty while nothing runs.",
            Unit.COUNT,
            (
                Query(f"zeus_agent_run_last_metric{{{_OF}}}", "{{pod}} last"),
                Query(f"zeus_agent_run_best_metric{{{_OF}}}", "{{pod}} best"),
            ),
            width=8,
            least=None,
            steps=True,
        ),
        Panel(
            "Power of its pods",
            "Mean over five minutes of the GPUs that they have alone.",
            Unit.WATTS,
            (Query(f"namespace_zeusjob:zeus_agent_pod_energy_joules:rate5m{{{_OF}}}", "power"),),
            width=8,
        ),
    ),
)

JOB = Dashboard(
    uid="zeus-job",
    title="Zeus / Job",
    description="One ZeusJob: cost from run to run, batch size, savings, outcomes, progress.",
    variables=(
        Variable(
            "namespace", "Namespace", "zeus_job_energy_joules_total", "namespace", several=False
        ),
        Variable(
            "zeusjob",
            "ZeusJob",
            'zeus_job_energy_joules_total{namespace="$namespace"}',
            "zeusjob",
            several=False,
        ),
    ),
    rows=(_NOW, _RUNS, _RUNNING),
)
