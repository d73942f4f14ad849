"""The dashboard of everything: how much power, who uses it, what is saved, and the operator."""

from __future__ import annotations

from tools.dashboards.panels import Dashboard, Kind, Panel, Query, Row, Unit, Variable

_OF = 'namespace=~"$namespace"'
_JOB = "max by (namespace, zeusjob)"

_NOW = Row(
    "Now",
    (
        Panel(
            "Power",
            "Drawn by all GPUs that an agent sees.",
            Unit.WATTS,
            (Query("sum(zeus_agent_gpu_power_watts)"),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Energy",
            "Used by all GPUs in the time shown, idle power included.",
            Unit.JOULES,
            (Query("sum(increase(zeus_agent_gpu_energy_joules_total[$__range]))"),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Energy saved",
            "Since the jobs began, against always running their defaults: joules, and the fraction "
            "of what the defaults would have taken. Only jobs of which it is known count. The "
            "default's side is an estimate; see the interval of each job.",
            Unit.JOULES,
            (Query("cluster:zeus_job_saved_energy_joules:sum"),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Energy saved, fraction",
            "The same as a fraction of what the defaults would have taken; below 0 it is lost.",
            Unit.RATIO,
            (Query("cluster:zeus_job_saved_energy:ratio"),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Cost saved, fraction",
            "Cost weighs energy and time as each job's energyPreference says.",
            Unit.RATIO,
            (Query("cluster:zeus_job_saved_cost:ratio"),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Jobs that need a person",
            "ZeusJobs whose condition Degraded is true.",
            Unit.COUNT,
            (Query(f'sum({_JOB} (zeus_job_condition{{condition="Degraded"}})) or vector(0)'),),
            kind=Kind.NUMBER,
            width=4,
            height=4,
        ),
    ),
)

_USERS = Row(
    "Who uses it",
    (
        Panel(
            "Power by node",
            "Mean over five minutes.",
            Unit.WATTS,
            (Query("node:zeus_agent_gpu_energy_joules:rate5m", "{{node}}"),),
            stacked=True,
        ),
        Panel(
            "Power by namespace",
            "Mean over five minutes of the GPUs that pods of the namespace have alone; then what "
            "is no single pod's: shared boards, idle ones, and what was not known.",
            Unit.WATTS,
            (
                Query(
                    f"namespace:zeus_agent_namespace_energy_joules:rate5m{{{_OF}}}", "{{namespace}}"
                ),
                Query("reason:zeus_agent_unattributed_energy_joules:rate5m", "({{reason}})"),
            ),
            stacked=True,
        ),
        Panel(
            "Energy by namespace",
            "In the time shown.",
            Unit.JOULES,
            (
                Query(
                    "sort_desc(sum by (namespace) "
                    f"(increase(zeus_agent_namespace_energy_joules_total{{{_OF}}}[$__range])))",
                    "{{namespace}}",
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "What ZeusJobs do",
            "Number of jobs by what their condition Progressing says.",
            Unit.COUNT,
            (
                Query(
                    "count by (reason) (max by (namespace, zeusjob, reason) "
                    f'(zeus_job_condition{{condition="Progressing", {_OF}}}))',
                    "{{reason}}",
                ),
            ),
            stacked=True,
        ),
    ),
)

_SAVINGS = Row(
    "Savings",
    (
        Panel(
            "Jobs",
            "Energy of all runs; energy saved, the fraction with the bounds of its 95 % interval; "
            "the batch size last decided. Empty cells are not known yet.",
            Unit.COUNT,
            (
                Query(f"namespace_zeusjob:zeus_job_energy_joules_total:max{{{_OF}}}", "Energy"),
                Query(f"namespace_zeusjob:zeus_job_saved_energy_joules:max{{{_OF}}}", "Saved"),
                Query(f'{_JOB} (zeus_job_saved_ratio{{of="energy", {_OF}}})', "Saved, fraction"),
                Query(f'{_JOB} (zeus_job_saved_ratio_low{{of="energy", {_OF}}})', "at least"),
                Query(f'{_JOB} (zeus_job_saved_ratio_high{{of="energy", {_OF}}})', "at most"),
                Query(f"{_JOB} (zeus_job_batch_size{{{_OF}}})", "Batch size"),
                Query(f"{_JOB} (zeus_job_failures_in_row{{{_OF}}})", "Failed in a row"),
            ),
            kind=Kind.TABLE,
            width=24,
            columns=(
                ("Energy", Unit.JOULES),
                ("Saved", Unit.JOULES),
                ("Saved, fraction", Unit.RATIO),
                ("at least", Unit.RATIO),
                ("at most", Unit.RATIO),
            ),
        ),
        Panel(
            "Energy saved by namespace",
            "Since the jobs began.",
            Unit.JOULES,
            (Query(f"namespace:zeus_job_saved_energy_joules:sum{{{_OF}}}", "{{namespace}}"),),
            least=None,
        ),
        Panel(
            "Fraction of the cost saved by namespace",
            "Below 0 it is lost.",
            Unit.RATIO,
            (Query(f"namespace:zeus_job_saved_cost:ratio{{{_OF}}}", "{{namespace}}"),),
            least=None,
        ),
    ),
)

_OPERATOR = Row(
    "The operator",
    (
        Panel(
            "Leader",
            "1: this replica leads. More than one at a time is a matter of seconds.",
            Unit.COUNT,
            (Query("zeus_operator_leader", "{{instance}}"),),
            width=6,
            steps=True,
        ),
        Panel(
            "Waits for a worker",
            "How long the ZeusJob that is due for longest has waited.",
            Unit.SECONDS,
            (Query("zeus_operator_queue_oldest_seconds", "{{instance}}"),),
            width=6,
        ),
        Panel(
            "Time of a reconcile",
            "99 of 100 take less; half of them take less.",
            Unit.SECONDS,
            tuple(
                Query(
                    f"histogram_quantile({share}, sum by (le) "
                    "(rate(zeus_operator_reconcile_seconds_bucket[$__rate_interval])))",
                    name,
                )
                for share, name in (("0.99", "99 %"), ("0.5", "50 %"))
            ),
            width=6,
        ),
        Panel(
            "Failed reconciles",
            "Each is tried again. A conflict, and a result that is awaited, are normal.",
            Unit.PER_SECOND,
            (
                Query(
                    "sum by (reason) "
                    "(rate(zeus_operator_reconcile_errors_total[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
            width=6,
        ),
    ),
)

FLEET = Dashboard(
    uid="zeus-fleet",
    title="Zeus / Fleet",
    description="Power, energy and savings of all nodes, namespaces and ZeusJobs.",
    variables=(
        Variable("namespace", "Namespace", "zeus_agent_namespace_energy_joules_total", "namespace"),
    ),
    rows=(_NOW, _USERS, _SAVINGS, _OPERATOR),
)
