"""When each alert about agents and GPUs fires, and when it is silent."""

from __future__ import annotations

from tests.observability.support.alert_case import Case

_AGENT = 'job="zeus-system/zeus-agent", instance="10.0.0.9:8080", node="gpu-node-1"'
_GPU = f'{_AGENT}, gpu="GPU-1"'
_DAY_SECONDS = 24 * 3600
_EXPIRY = f"zeus_agent_certificate_expiry_timestamp_seconds{{{_AGENT}}}"


def _refused(code: str) -> str:
    return f'zeus_agent_refusals_total{{{_AGENT}, code="{code}"}}'


def _nobodys(reason: str) -> str:
    return f'zeus_agent_unattributed_energy_joules_total{{{_AGENT}, reason="{reason}"}}'


def _driver_failed(code: str) -> str:
    return f'zeus_agent_nvml_errors_total{{{_GPU}, code="{code}"}}'


AGENT_CASES = (
    Case(
        "ZeusAgentDown",
        {f"up{{{_AGENT}}}": "1x3 0x57"},
        9,
        {
            "it was replaced": {f"up{{{_AGENT}}}": "1x3 0x3 1x54"},
            "it is another program": {'up{job="node-exporter", instance="a"}': "0x60"},
        },
    ),
    Case(
        "ZeusAgentSeesNoGpu",
        {f'zeus_agent_build_info{{{_AGENT}, version="1"}}': "1x60"},
        15,
        {
            "it sees one that is lost": {
                f'zeus_agent_build_info{{{_AGENT}, version="1"}}': "1x60",
                f'zeus_agent_gpu_info{{{_GPU}, model="V100"}}': "1x60",
            }
        },
    ),
    Case(
        "ZeusAgentRestoreFailing",
        {f"zeus_agent_restores_pending{{{_AGENT}}}": "1x60"},
        5,
        {"a moment": {f"zeus_agent_restores_pending{{{_AGENT}}}": "0x5 1 1 0x53"}},
    ),
    Case(
        "ZeusAgentNvmlHanging",
        {_driver_failed("timeout"): "0x5 1x55"},
        6,
        {
            "long ago": {_driver_failed("timeout"): "4x60"},
            "the driver refuses at once": {_driver_failed("4"): "0+1x60"},
        },
    ),
    Case(
        "ZeusGpuLost",
        {f"zeus_agent_gpu_healthy{{{_GPU}}}": "1x3 0x57"},
        6,
        {"it answers again": {f"zeus_agent_gpu_healthy{{{_GPU}}}": "1x3 0 1x56"}},
    ),
    Case(
        "ZeusForeignLimitChanges",
        {f"zeus_agent_foreign_changes_total{{{_GPU}}}": "0x5 1x55"},
        6,
        {"yesterday": {f"zeus_agent_foreign_changes_total{{{_GPU}}}": "2x120"}},
    ),
    Case(
        "ZeusGpuLimitNotEnforced",
        {
            f"zeus_agent_gpu_power_limit_watts{{{_GPU}}}": "300x60",
            f"zeus_agent_gpu_enforced_power_limit_watts{{{_GPU}}}": "250x60",
        },
        15,
        {
            "rounding": {
                f"zeus_agent_gpu_power_limit_watts{{{_GPU}}}": "300x60",
                f"zeus_agent_gpu_enforced_power_limit_watts{{{_GPU}}}": "299x60",
            }
        },
    ),
    Case(
        "ZeusAgentCertificateExpiring",
        {_EXPIRY: f"{13 * _DAY_SECONDS}x120"},
        60,
        {
            "it will be renewed": {_EXPIRY: f"{29 * _DAY_SECONDS}x120"},
            "there is none, which another alert says": {_EXPIRY: "0x120"},
        },
    ),
    Case(
        "ZeusAgentCertificateMissing",
        {_EXPIRY: "_ 0x60"},
        11,
        {"it comes late": {_EXPIRY: "0x5 9999999x55"}},
    ),
    Case(
        "ZeusAgentPolicyRefused",
        {f"zeus_agent_policy_valid{{{_AGENT}}}": "0x60"},
        5,
        {"it is mended": {f"zeus_agent_policy_valid{{{_AGENT}}}": "1 0 0 1x57"}},
    ),
    Case(
        "ZeusAgentMayNotSetLimits",
        {
            _refused("no_permission"): "0x5 1x55",
            _refused("state_not_saved"): "0x5 3x55",
        },
        6,
        {"the policy says so": {_refused("policy_denied"): "0+5x60"}},
        firing=2,
    ),
    Case(
        "ZeusAgentRefusals",
        {_refused("unauthenticated"): "0+600x60"},
        11,
        {
            "a few": {_refused("not_owner"): "0+6x60"},
            "a GPU is lost, which another alert says": {_refused("gpu_lost"): "0+600x60"},
        },
    ),
    Case(
        "ZeusEnergyUnattributed",
        {_nobodys("unknown"): "0+1500x60"},
        16,
        {
            "GPUs are idle": {_nobodys("unowned"): "0+1500x60"},
            "the kubelet was restarted": {_nobodys("unknown"): "0x5 100 200 300x53"},
        },
    ),
)
