"""Sets of values in which each switch of the chart meets each other one.

All pairs, not all combinations: what two switches do to each other shows, in few cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tests.chart.support.helm import Values, merged

SWITCHES: Mapping[str, Mapping[str, Values]] = {
    "database": {
        "external": {"database": {"existingSecret": "zeus-database", "key": "dsn"}},
        "evaluation": {"postgresql": {"enabled": True}},
        "evaluation-without-volume": {
            "postgresql": {"enabled": True, "persistence": {"enabled": False}, "password": "abc"}
        },
    },
    "gpus": {
        "runtime-class": {},
        "runtime-class-narrow": {"agent": {"privileged": False}},
        "cdi": {"agent": {"nvidia": {"mode": "cdi", "runtimeClassName": "nvidia-cdi"}}},
        "host-path": {"agent": {"nvidia": {"mode": "hostPath"}}},
        "simulator": {
            "gpuSimulator": {"enabled": True, "tolerations": [{"operator": "Exists"}]},
            "agent": {"privileged": False},
        },
        "no-agents": {"agent": {"enabled": False}},
    },
    "namespaces": {"all": {}, "some": {"watchNamespaces": ["team-a", "team-b"]}},
    "crds": {"kept": {}, "none": {"crds": {"enabled": False}}, "gone": {"crds": {"keep": False}}},
    "admission": {"on": {}, "off": {"admissionPolicy": {"enabled": False}}},
    "rbac": {
        "on": {},
        "off": {"rbac": {"create": False}},
        "no-roles-for-people": {"rbac": {"aggregateToDefaultRoles": False}},
    },
    "network": {
        "ingress": {},
        "off": {"networkPolicy": {"enabled": False}},
        "egress": {
            "networkPolicy": {
                "metricsFrom": [
                    {
                        "namespaceSelector": {
                            "matchLabels": {"kubernetes.io/metadata.name": "monitoring"}
                        }
                    }
                ],
                "egress": {
                    "enabled": True,
                    "apiServerTo": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
                    "databaseTo": [{"ipBlock": {"cidr": "10.0.0.2/32"}}],
                },
            }
        },
    },
    "monitoring": {
        "off": {},
        "on": {
            "monitoring": {
                "serviceMonitor": {
                    "enabled": True,
                    "labels": {"release": "prometheus"},
                    "metricRelabelings": [{"action": "drop", "regex": "go_.*"}],
                },
                "podMonitor": {
                    "enabled": True,
                    "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
                },
                "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
                "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Zeus"}},
            }
        },
    },
    "operator": {
        "two": {},
        "one": {
            "operator": {
                "replicas": 1,
                "podDisruptionBudget": {"enabled": False},
                "topologySpreadConstraints": [],
                "nodeSelector": {"kubernetes.io/os": None},
                "settings": {"httpPort": 9000, "metricsJobs": 1_000_000},
                "updateStrategy": {"type": "Recreate"},
            },
            "tests": {"enabled": False},
        },
    },
    "runtime": {"on": {}, "off": {"runtime": {"enabled": False}}},
    "extras": {
        "none": {},
        "all": {
            "imagePullSecrets": [{"name": "registry"}],
            "commonLabels": {"team": "ml"},
            "image": {"tag": "1.2.3", "pullPolicy": "Always"},
            "operator": {
                "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example"}],
                "extraArgs": ["--workers=4"],
                "extraVolumes": [{"name": "ca", "configMap": {"name": "database-ca"}}],
                "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/database-ca"}],
                "tolerations": [{"key": "control-plane", "operator": "Exists"}],
                "affinity": {
                    "nodeAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "weight": 1,
                                "preference": {
                                    "matchExpressions": [{"key": "cpu", "operator": "Exists"}]
                                },
                            }
                        ]
                    }
                },
                "priorityClassName": "high",
                "annotations": {"owner": "ml"},
                "podAnnotations": {"note": "1"},
                "podLabels": {"network": "closed"},
                "serviceAccount": {"annotations": {"cloud/role": "zeus"}},
            },
            "agent": {
                "extraEnv": [{"name": "A", "value": "b"}],
                "extraArgs": ["--policy=/other"],
                "updateStrategy": {"type": "OnDelete"},
                "extraVolumes": [{"name": "x", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
                "affinity": {"podAntiAffinity": {}},
                "priorityClassName": "system-node-critical",
                "annotations": {"owner": "ml"},
                "podAnnotations": {"note": "1"},
                "podLabels": {"network": "closed"},
                "service": {"port": 9443, "annotations": {"note": "1"}},
                "serviceAccount": {"annotations": {"cloud/role": "agent"}},
                "policy": {"gpus": [{"model": "*A100*", "minPercent": 50, "maxWatts": 400.5}]},
            },
            "extraObjects": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "of-the-user"},
                    "data": {"release": "{{ .Release.Name }}"},
                },
            ],
        },
    },
}

_ALWAYS: Values = {"image": {"registry": "registry.example/zeus"}}

Choice = tuple[tuple[str, str], ...]


def pairwise(switches: Mapping[str, Sequence[str]]) -> list[Choice]:
    """Return choices of one setting for each switch, with every pair of settings in one of them.

    Greedy: each choice begins with a pair that is still missing, and takes for every other switch
    the setting that brings most pairs along.
    """
    order = list(switches)
    missing = {
        frozenset({(one, a), (other, b)})
        for one, other in itertools.combinations(order, 2)
        for a in switches[one]
        for b in switches[other]
    }
    choices: list[Choice] = []
    while missing:
        chosen = dict(min(missing, key=sorted))
        for switch in order:
            if switch not in chosen:
                chosen[switch] = _best(switch, switches[switch], chosen.items(), missing)
        choices.append(tuple((switch, chosen[switch]) for switch in order))
        missing -= {frozenset(pair) for pair in itertools.combinations(choices[-1], 2)}
    return choices


def _best(
    switch: str,
    settings: Sequence[str],
    chosen: Iterable[tuple[str, str]],
    missing: Collection[frozenset[tuple[str, str]]],
) -> str:
    """Return the setting that has most pairs with the chosen ones that are still missing."""

    def pairs(setting: str) -> int:
        return sum(frozenset({(switch, setting), each}) in missing for each in chosen)

    return max(settings, key=pairs)


def cases() -> dict[str, dict[str, Any]]:
    """Return the values of each case, by what is switched in it."""
    return {
        " ".join(f"{switch}={setting}" for switch, setting in choice): merged(
            _ALWAYS, *(SWITCHES[switch][setting] for switch, setting in choice)
        )
        for choice in pairwise({name: list(settings) for name, settings in SWITCHES.items()})
    }


CASES = cases()
