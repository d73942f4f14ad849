"""What is installed in a cluster before the operator runs: CRD, admission policy, its rights."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cluster.support.control_plane import ControlPlane
from tests.support.eventually import eventually

REPOSITORY = Path(__file__).resolve().parents[3]
OPERATOR_NAMESPACE = "zeus-system"
SERVICE_ACCOUNT = "zeus-operator"
CLUSTER_WIDE = "deploy/rbac.yaml"


def install(plane: ControlPlane, *, rights: str = CLUSTER_WIDE) -> None:
    """Apply the files of the repository as a user does, and wait until ZeusJobs are served.

    Args:
        rights: which file says what the operator may do.
    """
    for file in ("crds/zeusjobs.yaml", rights, "deploy/admission-policy.yaml"):
        plane.kubectl("apply", "-f", str(REPOSITORY / file))
    plane.kubectl("wait", "--for=condition=Established", "crd/zeusjobs.zeus.energy")
    eventually(lambda: "zj" in plane.kubectl("api-resources"), "ZeusJobs are served")


def allow_lease(plane: ControlPlane, namespace: str) -> None:
    """Give the operator the rights to its Lease in `namespace` that it has in its own."""
    documents = yaml.safe_load_all((REPOSITORY / CLUSTER_WIDE).read_text())
    for document in documents:
        if document["kind"] in ("Role", "RoleBinding"):
            document["metadata"]["namespace"] = namespace
            plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(document))
