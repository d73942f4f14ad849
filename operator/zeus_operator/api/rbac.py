"""Who may do what: the operator's own rights, and those of the people who use ZeusJobs.  Pure.

The operator never writes a ZeusJob itself, only its status; it reads no Secret but its own two; and
it may not change a child, only create and delete one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zeus_operator import names
from zeus_operator.api.config_map_guard import config_map_guard
from zeus_operator.trust.objects import AUTHORITY_SECRET, CERTIFICATE_SECRET, CONFIG_MAP
from zeus_operator.workloads.base import Right, WorkloadKind
from zeus_operator.workloads.registry import JOB

SERVICE_ACCOUNT = "zeus-operator"
NAMESPACE = "zeus-system"

Manifest = dict[str, Any]
_API = "rbac.authorization.k8s.io"
_READ = ("get", "list", "watch")


def _allow(group: str, resources: Sequence[str], verbs: Sequence[str], **more: Any) -> Manifest:
    return {"apiGroups": [group], "resources": [*resources], "verbs": [*verbs], **more}


def plain(_kind: WorkloadKind, rules: list[Manifest]) -> list[Any]:
    """Return the rules of a kind as they are."""
    return rules


Mark = Callable[[WorkloadKind, list[Manifest]], list[Any]]
"""Returns the rules of a kind with what tells them from others, in a chart's template."""


def job_rules(kinds: Sequence[WorkloadKind] = (JOB,), mark: Mark = plain) -> list[Any]:
    """Return what the operator does in each namespace that it watches."""
    return [
        _allow(names.GROUP, [names.PLURAL], _READ),
        _allow(names.GROUP, [f"{names.PLURAL}/status"], ("patch",)),
        # An owner reference with blockOwnerDeletion needs no right here: ours has it off.
        *(rule for kind in kinds for rule in mark(kind, _kind_rules(kind))),
        _allow("", ["pods"], _READ),
        _allow("", ["events"], ("create",)),
        _project_history(),
    ]


def _kind_rules(kind: WorkloadKind) -> list[Manifest]:
    """Return the rights to children of a kind, and to what they need in their namespace."""
    group = kind.api_version.partition("/")[0]
    return [
        _allow(group, [kind.plural], (*_READ, "create", "delete")),
        *(_allow_also(right) for right in kind.rights if not right.is_cluster_wide),
    ]


def _cluster_rules(kinds: Sequence[WorkloadKind], mark: Mark) -> list[Any]:
    """Return the rights to what children need and is in no namespace."""
    found: list[Any] = []
    for kind in kinds:
        rules = [_allow_also(right) for right in kind.rights if right.is_cluster_wide]
        found += mark(kind, rules) if rules else []
    return found


def _allow_also(right: Right) -> Manifest:
    return _allow(right.group, [right.resource], right.verbs)


def _project_history() -> Manifest:
    """Return the right to put a job's history beside it, in a ConfigMap.

    Not by name: that is made of the ZeusJob's, which people choose, and a rule takes no patterns.
    `config_map_guard` holds what is written to those names; what is read can't be held so.
    Without `list`, `watch` and `delete`: the operator asks for one by its name, for its metadata
    alone; what is not its own it leaves as it is; the garbage collector deletes.
    """
    return _allow("", ["configmaps"], ("get", "create", "patch"))


def cluster_wide(
    namespace: str = NAMESPACE, kinds: Sequence[WorkloadKind] = (JOB,), mark: Mark = plain
) -> list[Manifest]:
    """Return the rights of an operator in `namespace` that watches all namespaces.

    Args:
        kinds: of children that a ZeusJob may have.

    Those to the ConfigMap of the agents' authority and to list namespaces are for one that was told
    of agents; one without makes no use of them.  To `get` that ConfigMap is for one that has these
    rights and yet serves some namespaces only: it asks each of them by name.
    """
    return [
        _namespace(namespace),
        _service_account(namespace),
        _role(
            "ClusterRole",
            SERVICE_ACCOUNT,
            None,
            [
                *job_rules(kinds, mark),
                *_cluster_rules(kinds, mark),
                _read_namespaces(),
                _find_namespaces(),
                _publish_authority("get", "list"),
            ],
        ),
        _binding("ClusterRole", SERVICE_ACCOUNT, None, namespace),
        *_own_namespace(namespace),
        *config_map_guard(SERVICE_ACCOUNT, namespace),
        *user_roles(),
    ]


def namespaced(
    watched: Sequence[str],
    namespace: str = NAMESPACE,
    kinds: Sequence[WorkloadKind] = (JOB,),
    mark: Mark = plain,
) -> list[Manifest]:
    """Return the rights of an operator in `namespace` that watches the namespaces `watched`.

    Args:
        kinds: of children that a ZeusJob may have.

    A namespace's UID is part of what learned state belongs to, so each of them may be read, by
    its name only.
    """
    return [
        _namespace(namespace),
        _service_account(namespace),
        _role(
            "ClusterRole",
            SERVICE_ACCOUNT,
            None,
            [_read_namespaces(watched), *_cluster_rules(kinds, mark)],
        ),
        _binding("ClusterRole", SERVICE_ACCOUNT, None, namespace),
        *(
            manifest
            for each in watched
            for manifest in (
                _role(
                    "Role",
                    SERVICE_ACCOUNT,
                    each,
                    [*job_rules(kinds, mark), _publish_authority("get")],
                ),
                _binding("Role", SERVICE_ACCOUNT, each, namespace),
            )
        ),
        *_own_namespace(namespace),
        *config_map_guard(SERVICE_ACCOUNT, namespace),
        *user_roles(),
    ]


def user_roles() -> list[Manifest]:
    """Return the roles that give people with `view`, `edit` or `admin` the same on ZeusJobs."""
    resources = [names.PLURAL]
    write = ("create", "update", "patch", "delete", "deletecollection")
    return [
        _user_role("view", [_allow(names.GROUP, resources, _READ)], ("view",)),
        _user_role("edit", [_allow(names.GROUP, resources, write)], ("edit", "admin")),
    ]


def _user_role(name: str, rules: list[Manifest], into: Sequence[str]) -> Manifest:
    role = _role("ClusterRole", f"{names.PLURAL}-{name}", None, rules)
    role["metadata"]["labels"] = {f"{_API}/aggregate-to-{each}": "true" for each in into}
    return role


def _own_namespace(namespace: str) -> list[Manifest]:
    """The leader's Lease, and what the agents of this namespace need."""
    name = f"{SERVICE_ACCOUNT}-leader"
    lease = ["leases"]
    # A right to create by POST can't be bound to a name.
    own = _allow("coordination.k8s.io", lease, ("get", "update"), resourceNames=[SERVICE_ACCOUNT])
    rules = [_allow("coordination.k8s.io", lease, ("create",)), own]
    agents = f"{SERVICE_ACCOUNT}-agents"
    return [
        _role("Role", name, namespace, rules),
        _binding("Role", name, namespace, namespace),
        _role("Role", agents, namespace, agent_rules()),
        _binding("Role", agents, namespace, namespace),
    ]


def agent_rules() -> list[Manifest]:
    """Return what the operator does in the namespace of the agents, which is its own.

    The right to the ConfigMap is in the rights to the whole cluster as well, and is here for an
    operator that has none of those.
    """
    own = [AUTHORITY_SECRET, CERTIFICATE_SECRET]
    return [
        _allow("", ["secrets"], ("create",)),
        _allow("", ["secrets"], ("get", "update"), resourceNames=own),
        _publish_authority("get"),
        _allow("discovery.k8s.io", ["endpointslices"], ("list",)),
    ]


def _publish_authority(*read: str) -> Manifest:
    """Return the right to the ConfigMap of the authority, by its name only.

    It is made by server-side apply, which names what it creates, and listed by its name.
    """
    verbs = (*read, "create", "patch", "delete")
    return _allow("", ["configmaps"], verbs, resourceNames=[CONFIG_MAP])


def _find_namespaces() -> Manifest:
    """Return the right to find the namespaces that have access to the agents by their label."""
    return _allow("", ["namespaces"], ("list",))


def _read_namespaces(only: Sequence[str] = ()) -> Manifest:
    """Return the right to read namespaces by name: of all, or of `only` those."""
    return _allow("", ["namespaces"], ("get",), **({"resourceNames": [*only]} if only else {}))


def _namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _service_account(namespace: str) -> Manifest:
    metadata = {"name": SERVICE_ACCOUNT, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def _metadata(name: str, namespace: str | None) -> Manifest:
    return {"name": name} if namespace is None else {"name": name, "namespace": namespace}


def _role(kind: str, name: str, namespace: str | None, rules: list[Manifest]) -> Manifest:
    return {
        "apiVersion": f"{_API}/v1",
        "kind": kind,
        "metadata": _metadata(name, namespace),
        "rules": rules,
    }


def _binding(kind: str, name: str, namespace: str | None, operator_namespace: str) -> Manifest:
    return {
        "apiVersion": f"{_API}/v1",
        "kind": f"{kind}Binding",
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": _API, "kind": kind, "name": name},
        "subjects": [
            {"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": operator_namespace}
        ],
    }
