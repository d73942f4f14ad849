"""What the agent's metrics show before anything has happened: rates and alerts start from there."""

from __future__ import annotations

import pytest

from zeus_agent.metrics import Metrics
from zeus_agent.nvml import NvmlFailure
from zeus_agent.worker import WorkerTimeout
from zeus_runtime.protocol import ErrorCode

GPU = {"gpu": "GPU-1"}


def test_the_first_time_that_the_driver_hangs_is_an_increase() -> None:
    metrics = Metrics()
    metrics.gpu_found("GPU-1", "V100")
    timeouts = {**GPU, "code": "timeout"}
    assert metrics.registry.get_sample_value("zeus_agent_nvml_errors_total", timeouts) == 0
    metrics.nvml_failed("GPU-1", WorkerTimeout("it hangs", started=True))
    assert metrics.registry.get_sample_value("zeus_agent_nvml_errors_total", timeouts) == 1


def test_codes_of_the_driver_are_shown_once_they_occur() -> None:
    metrics = Metrics()
    metrics.gpu_found("GPU-1", "V100")
    lost = {**GPU, "code": "15"}
    assert metrics.registry.get_sample_value("zeus_agent_nvml_errors_total", lost) is None
    metrics.nvml_failed("GPU-1", NvmlFailure(15, "nvmlDeviceGetPowerUsage"))
    assert metrics.registry.get_sample_value("zeus_agent_nvml_errors_total", lost) == 1


@pytest.mark.parametrize(
    "counter",
    ["limits_set", "limits_restored", "restore_failures", "foreign_changes"],
)
def test_counters_of_a_gpu_begin_at_zero(counter: str) -> None:
    metrics = Metrics()
    metrics.gpu_found("GPU-1", "V100")
    assert metrics.registry.get_sample_value(f"zeus_agent_{counter}_total", GPU) == 0


@pytest.mark.parametrize("code", [each.value for each in ErrorCode])
def test_every_code_of_a_refusal_begins_at_zero(code: str) -> None:
    shown = Metrics().registry.get_sample_value("zeus_agent_refusals_total", {"code": code})
    assert shown == 0
