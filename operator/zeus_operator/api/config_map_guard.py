"""The ValidatingAdmissionPolicy that keeps the operator to its own ConfigMaps.  Pure.

RBAC can't say "those whose name ends so": the right to write histories is one to write every
ConfigMap.  In a whole cluster that would include those that others trust (DNS, who may log in), so
that a stolen token of the operator could become the whole cluster.  The API server itself holds
the operator to the names of its own.
API: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
"""

from __future__ import annotations

from typing import Any

from zeus_operator.history.config_map import SUFFIX
from zeus_operator.trust.objects import CONFIG_MAP

NAME = "zeus-operator-configmaps"


def config_map_guard(service_account: str, namespace: str) -> list[dict[str, Any]]:
    """Return the policy for the operator's account and its binding, as manifests."""
    username = f"system:serviceaccount:{namespace}:{service_account}"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": NAME},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "resources": ["configmaps"],
                        "operations": ["CREATE", "UPDATE"],
                    }
                ]
            },
            "matchConditions": [
                {
                    "name": "asked-by-the-operator",
                    "expression": f"request.userInfo.username == '{username}'",
                }
            ],
            "validations": [
                {
                    "expression": (
                        f"object.metadata.name == '{CONFIG_MAP}' "
                        f"|| object.metadata.name.endsWith('{SUFFIX}')"
                    ),
                    "message": f"the operator writes ConfigMaps {CONFIG_MAP} and *{SUFFIX} alone",
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NAME},
        "spec": {"policyName": NAME, "validationActions": ["Deny"]},
    }
    return [policy, binding]
