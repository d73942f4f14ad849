"""The dashboard of nodes: GPUs, limits wanted, set and enforced, leases, what holds clocks down."""

from __future__ import annotations

from tools.dashboards.panels import Dashboard, Kind, Panel, Query, Row, Unit, Variable

_NODE = 'node=~"$node"'
_GPU = f'{_NODE}, gpu=~"$gpu"'


def _changes(metric: str) -> str:
    return f"sum(increase({metric}{{{_GPU}}}[$__rate_interval]))"


_GPUS = Row(
    "GPUs",
    (
        Panel(
            "Power and limits",
            "What each GPU draws, under the limit that it has.",
            Unit.WATTS,
            (
                Query(f"zeus_agent_gpu_power_watts{{{_GPU}}}", "{{node}} {{gpu}} draws"),
                Query(f"zeus_agent_gpu_power_limit_watts{{{_GPU}}}", "{{node}} {{gpu}} limit"),
            ),
            width=24,
        ),
        Panel(
            "Limits: wanted, set, enforced",
            "What the lease's owner wants, what the agent has set for it within the policy, what "
            "the driver enforces, and what the policy wants without a lease. Enforced below set: "
            "something else holds the GPU down. Wanted and set are empty while there is no lease.",
            Unit.WATTS,
            (
                Query(f"zeus_agent_gpu_wanted_power_limit_watts{{{_GPU}}}", "{{gpu}} wanted"),
                Query(f"zeus_agent_gpu_applied_power_limit_watts{{{_GPU}}}", "{{gpu}} set"),
                Query(f"zeus_agent_gpu_enforced_power_limit_watts{{{_GPU}}}", "{{gpu}} enforced"),
                Query(
                    f"zeus_agent_gpu_node_default_power_limit_watts{{{_GPU}}}",
                    "{{gpu}} node default",
                ),
            ),
            steps=True,
        ),
        Panel(
            "Clocks held down",
            "Why clocks are lower than they could be. sw_power_cap: the power limit does it, which "
            "is what a limit is for; slowdowns are heat or the power supply.",
            Unit.COUNT,
            (
                Query(
                    f'zeus_agent_gpu_clocks_limited{{{_GPU}, reason!="gpu_idle"}}',
                    "{{gpu}} {{reason}}",
                ),
            ),
            kind=Kind.STATES,
        ),
        Panel(
            "Models",
            "The GPUs, whether each answers, and its energy in the time shown.",
            Unit.COUNT,
            (
                Query(f"max by (node, gpu, model) (zeus_agent_gpu_info{{{_GPU}}})", "Present"),
                Query(f"max by (node, gpu) (zeus_agent_gpu_healthy{{{_GPU}}})", "Answers"),
                Query(
                    "sum by (node, gpu) "
                    f"(increase(zeus_agent_gpu_energy_joules_total{{{_GPU}}}[$__range]))",
                    "Energy",
                ),
            ),
            kind=Kind.TABLE,
            columns=(("Answers", Unit.YES_NO), ("Energy", Unit.JOULES)),
        ),
        Panel(
            "Limits held",
            "Leases by namespace; without a name those of processes on the machine itself.",
            Unit.COUNT,
            (
                Query(
                    f"sum by (namespace) (zeus_agent_leases{{{_NODE}}})",
                    "{{namespace}}",
                ),
            ),
            stacked=True,
            steps=True,
        ),
    ),
)

_SAFETY = Row(
    "Is every limit back?",
    (
        Panel(
            "Limits not back yet",
            "Of leases that have ended. More than a moment above 0 is an alert.",
            Unit.COUNT,
            (Query(f"zeus_agent_restores_pending{{{_NODE}}}", "{{node}}"),),
            width=8,
            steps=True,
        ),
        Panel(
            "Changes of limits",
            "Set for leases, put back, failed to put back, and changed by someone else.",
            Unit.COUNT,
            (
                Query(_changes("zeus_agent_limits_set_total"), "set"),
                Query(_changes("zeus_agent_limits_restored_total"), "put back"),
                Query(_changes("zeus_agent_restore_failures_total"), "not put back"),
                Query(_changes("zeus_agent_foreign_changes_total"), "by someone else"),
            ),
            width=8,
        ),
        Panel(
            "Driver errors",
            "Failed visits to NVML by its code; timeout: it hung.",
            Unit.PER_SECOND,
            (
                Query(
                    "sum by (node, code) "
                    f"(rate(zeus_agent_nvml_errors_total{{{_GPU}}}[$__rate_interval]))",
                    "{{node}} {{code}}",
                ),
            ),
            width=8,
        ),
    ),
)

_AGENT = Row(
    "The agent",
    (
        Panel(
            "Time to answer",
            "99 of 100 requests take less.",
            Unit.SECONDS,
            (
                Query(
                    "histogram_quantile(0.99, sum by (le, node) "
                    f"(rate(zeus_agent_request_seconds_bucket{{{_NODE}}}[$__rate_interval])))",
                    "{{node}}",
                ),
            ),
            width=6,
        ),
        Panel(
            "Time of a call to NVML",
            "99 of 100 calls take less. Setting a limit takes a real driver milliseconds.",
            Unit.SECONDS,
            (
                Query(
                    "histogram_quantile(0.99, sum by (le, call) "
                    f"(rate(zeus_agent_nvml_call_seconds_bucket{{{_NODE}}}[$__rate_interval])))",
                    "{{call}}",
                ),
            ),
            width=6,
        ),
        Panel(
            "Refused requests",
            "By the code that the caller got.",
            Unit.PER_SECOND,
            (
                Query(
                    "sum by (code) "
                    f"(rate(zeus_agent_refusals_total{{{_NODE}}}[$__rate_interval])) > 0",
                    "{{code}}",
                ),
            ),
            width=6,
        ),
        Panel(
            "Certificate ends in",
            "The operator renews it 30 days before its end.",
            Unit.SECONDS,
            (
                Query(
                    f"zeus_agent_certificate_expiry_timestamp_seconds{{{_NODE}}} - time()",
                    "{{node}}",
                ),
            ),
            width=6,
            least=None,
        ),
    ),
)

NODE = Dashboard(
    uid="zeus-node",
    title="Zeus / Node",
    description="GPUs of a node: power limits wanted, set and enforced, leases, throttling, agent.",
    variables=(
        Variable("node", "Node", "zeus_agent_gpu_info", "node"),
        Variable("gpu", "GPU", 'zeus_agent_gpu_info{node=~"$node"}', "gpu"),
    ),
    rows=(_GPUS, _SAFETY, _AGENT),
)
