"""The objects that hold the trust in agents: what they are called and how they look.  Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zeus_operator import names
from zeus_operator.trust.certificates import Authority, Leaf, key_pem_of, pem_of

Object = dict[str, Any]

AUTHORITY_SECRET = "zeus-agent-ca"  # noqa: S105 - a name
"""The authorities with their keys; for the operator alone."""
CERTIFICATE_SECRET = "zeus-agent-tls"  # noqa: S105 - a name
"""The agents' certificate and key; mounted by the agents."""
CONFIG_MAP = "zeus-agent-ca"
"""What to trust; mounted by pods that call an agent."""

CA_CERTIFICATES = "ca.crt"
CA_KEYS = "ca.key"
TLS_CERTIFICATE = "tls.crt"
TLS_KEY = "tls.key"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "zeus-operator"


def authority_secret(authorities: Sequence[Authority]) -> dict[str, str]:
    """Return what the Secret of the authorities holds, as texts."""
    return {
        CA_CERTIFICATES: "".join(each.pem for each in authorities),
        CA_KEYS: "".join(key_pem_of(each.key) for each in authorities if each.key is not None),
    }


def certificate_secret(leaf: Leaf) -> dict[str, str]:
    """Return what the Secret of the agents' certificate holds, as texts."""
    return {TLS_CERTIFICATE: pem_of(leaf.certificate), TLS_KEY: key_pem_of(leaf.key)}


def secret(
    found: Mapping[str, Any] | None, namespace: str, name: str, kind: str, texts: Mapping[str, str]
) -> Object:
    """Return the Secret with `texts`: a new one, or `found` with these values in it.

    Everything else of one that is there stays, its resourceVersion above all: the write fails if
    somebody has changed it meanwhile.
    """
    values = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    if found is None:
        metadata = {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": kind,
            "data": values,
        }
    return {**found, "data": {**(found.get("data") or {}), **values}}


def texts_of(found: Mapping[str, Any] | None, *keys: str) -> list[str]:
    """Return values of a Secret as texts; "": not there, or no text."""
    data = (found or {}).get("data") or {}
    return [_decoded(data.get(key)) for key in keys]


def config_map(namespace: str, text: str) -> Object:
    """Return the ConfigMap that publishes the authorities in `namespace`."""
    metadata = {"name": CONFIG_MAP, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {CA_CERTIFICATES: text},
    }


def is_ours(found: Mapping[str, Any]) -> bool:
    """Whether an object was made by this operator."""
    labels = (found.get("metadata") or {}).get("labels") or {}
    return bool(labels.get(MANAGED_BY) == MANAGER)


def has_access(namespaces: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return which of `namespaces` are to have the authorities; one that is ending is not."""
    found = set()
    for each in namespaces:
        metadata = each.get("metadata") or {}
        enabled = (metadata.get("labels") or {}).get(names.LABEL_AGENT_ACCESS)
        if enabled == names.AGENT_ACCESS_ENABLED and not metadata.get("deletionTimestamp"):
            found.add(str(metadata["name"]))
    return found


def _decoded(value: object) -> str:
    try:
        return base64.b64decode(str(value or ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
