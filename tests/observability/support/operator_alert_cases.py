"""When each alert about the operator and about jobs fires, and when it is silent."""

from __future__ import annotations

from tests.observability.support.alert_case import Case

_OPERATOR = 'job="zeus-operator", instance="10.0.0.1:8080"'
_STANDBY = 'job="zeus-operator", instance="10.0.0.2:8080"'
_JOB = 'namespace="vision", zeusjob="cifar100", instance="10.0.0.1:8080"'
_OTHER = 'up{job="shop", instance="10.0.0.3:80"}'
_WATCH = f'zeus_operator_watch_proof_age_seconds{{{_OPERATOR}, resource="jobs"}}'
_RECONCILES = f"zeus_operator_reconcile_seconds_count{{{_OPERATOR}}}"


def _failed(reason: str) -> str:
    return f'zeus_operator_reconcile_errors_total{{{_OPERATOR}, reason="{reason}"}}'


def _problems(of: str) -> str:
    return f'zeus_operator_agent_problems{{{_OPERATOR}, of="{of}"}}'


def _condition(condition: str, reason: str) -> str:
    return f'zeus_job_condition{{{_JOB}, condition="{condition}", reason="{reason}"}}'


OPERATOR_CASES = (
    Case(
        "ZeusOperatorDown",
        {f"up{{{_OPERATOR}}}": "0x60", f"up{{{_STANDBY}}}": "0x60", _OTHER: "1x60"},
        5,
        {"one replica answers": {f"up{{{_OPERATOR}}}": "0x60", f"up{{{_STANDBY}}}": "1x60"}},
    ),
    Case(
        "ZeusOperatorReplicaDown",
        {f"up{{{_OPERATOR}}}": "1x60", f"up{{{_STANDBY}}}": "0x60"},
        15,
        {
            "both answer": {f"up{{{_OPERATOR}}}": "1x60", f"up{{{_STANDBY}}}": "1x60"},
            "it was replaced": {f"up{{{_STANDBY}}}": "0x10 1x50"},
            "it is another program": {_OTHER: "0x60"},
        },
    ),
    Case(
        "ZeusOperatorNoLeader",
        {
            f"zeus_operator_leader{{{_OPERATOR}}}": "0x60",
            f"zeus_operator_leader{{{_STANDBY}}}": "0x60",
        },
        2,
        {
            "one leads": {
                f"zeus_operator_leader{{{_OPERATOR}}}": "0x60",
                f"zeus_operator_leader{{{_STANDBY}}}": "1x60",
            },
            "the lead goes over": {
                f"zeus_operator_leader{{{_OPERATOR}}}": "1x5 0x55",
                f"zeus_operator_leader{{{_STANDBY}}}": "0x6 1x54",
            },
        },
    ),
    Case(
        "ZeusOperatorRestarting",
        {f"process_start_time_seconds{{{_OPERATOR}}}": "100 200 300 400 500 500x60"},
        4,
        {
            "it was upgraded": {f"process_start_time_seconds{{{_OPERATOR}}}": "100x5 400x55"},
            "it is another program": {
                'process_start_time_seconds{job="shop", instance="a"}': "1 2 3 4 5 6x60"
            },
        },
    ),
    Case(
        "ZeusOperatorStoreAway",
        {f"zeus_operator_store_up{{{_OPERATOR}}}": "0x60"},
        2,
        {"it fails over": {f"zeus_operator_store_up{{{_OPERATOR}}}": "1x5 0 1x55"}},
    ),
    Case(
        "ZeusOperatorWatchStalled",
        {
            _WATCH: "0+60x60",
            f"zeus_operator_leader{{{_OPERATOR}}}": "1x60",
        },
        14,  # 13 x 60 s is the first over 720 s, and a minute more
        {
            "a quiet cluster, whose watch is renewed": {
                _WATCH: "0+60x10 0+60x10 0+60x10",
                f"zeus_operator_leader{{{_OPERATOR}}}": "1x60",
            },
            "a standby watches nothing": {
                _WATCH: "999x60",
                f"zeus_operator_leader{{{_OPERATOR}}}": "0x60",
            },
        },
    ),
    Case(
        "ZeusOperatorQueueOld",
        {f"zeus_operator_queue_oldest_seconds{{{_OPERATOR}}}": "90x60"},
        5,
        {"a burst": {f"zeus_operator_queue_oldest_seconds{{{_OPERATOR}}}": "0 70 80 70 0x56"}},
    ),
    Case(
        "ZeusOperatorReconcileErrors",
        {
            _failed("refused"): "0+20x60",
            _RECONCILES: "0+100x60",
        },
        16,  # a rate needs two samples
        {
            "few fail": {
                _failed("refused"): "0+5x60",
                _RECONCILES: "0+100x60",
            },
            "conflicts are normal": {
                _failed("conflict"): "0+50x60",
                _RECONCILES: "0+100x60",
            },
            "nothing happens": {
                _failed("refused"): "7x60",
                _RECONCILES: "100x60",
            },
        },
    ),
    Case(
        "ZeusOperatorInternalErrors",
        {_failed("internal"): "0x5 1x55"},
        6,
        {
            "none is new": {_failed("internal"): "3x60"},
            "the store was away": {_failed("store_unavailable"): "0+1x60"},
        },
    ),
    Case(
        "ZeusOperatorJobsWithoutSeries",
        {f"zeus_operator_jobs_without_series{{{_OPERATOR}}}": "3x60"},
        15,
        {"all are shown": {f"zeus_operator_jobs_without_series{{{_OPERATOR}}}": "0x60"}},
    ),
    Case(
        "ZeusAgentTrustBroken",
        {_problems("trust"): "1x60"},
        15,
        {
            "it heals": {_problems("trust"): "1x5 0x55"},
            "reports are another matter": {_problems("reports"): "1x60"},
        },
    ),
    Case(
        "ZeusAgentReportsNotRead",
        {_problems("reports"): "2x60"},
        10,
        {
            "trust is another matter": {_problems("trust"): "1x60"},
            "an agent was replaced": {_problems("reports"): "0x5 1x3 0x55"},
        },
    ),
    # ---- jobs ----
    Case(
        "ZeusJobFailing",
        {f"zeus_job_failures_in_row{{{_JOB}}}": "1x5 2x55"},
        6,
        {
            "one has failed": {f"zeus_job_failures_in_row{{{_JOB}}}": "0x5 1x55"},
            "the lead goes over and two replicas show it": {
                f"zeus_job_failures_in_row{{{_JOB}}}": "1x60",
                f"zeus_job_failures_in_row{{{_JOB.replace('0.1:', '0.2:')}}}": "1x60",
            },
        },
    ),
    Case(
        "ZeusJobPaused",
        {_condition("Degraded", "PausedAfterFailures"): "_x3 1x57"},
        3,
        {
            "nothing is wrong": {_condition("Degraded", "AsExpected"): "0x60"},
            "something else is wrong": {_condition("Degraded", "NoTelemetry"): "1x60"},
            "a person has suspended it": {_condition("Suspended", "SpecSuspend"): "1x60"},
        },
    ),
    Case(
        "ZeusJobDecisionNotApplied",
        {_condition("Degraded", "DecisionNotApplied"): "_x3 1x57"},
        3,
        {
            "something else is wrong": {_condition("Degraded", "NoTelemetry"): "1x60"},
            "nothing is wrong": {_condition("Degraded", "AsExpected"): "0x60"},
        },
    ),
    Case(
        "ZeusJobDegraded",
        {_condition("Degraded", "ImagePullFailed"): "1x60"},
        15,
        {
            "a run trains": {_condition("Progressing", "Running"): "1x60"},
            "it heals": {
                _condition("Degraded", "ImagePullFailed"): "1x9 _x50",
                _condition("Degraded", "AsExpected"): "_x9 0x50",
            },
            "an alert of its own says it": {_condition("Degraded", "PausedAfterFailures"): "1x60"},
        },
    ),
    Case(
        "ZeusJobCostsMore",
        {f'zeus_job_saved_ratio_high{{{_JOB}, of="cost"}}': "-0.2x120"},
        60,
        {
            "it may well save": {f'zeus_job_saved_ratio_high{{{_JOB}, of="cost"}}': "0.1x120"},
            "it takes longer, as it was told to": {
                f'zeus_job_saved_ratio_high{{{_JOB}, of="time"}}': "-0.2x120"
            },
        },
    ),
)
