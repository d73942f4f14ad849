"""Whose the Lease is: the ServiceAccount's that the replicas act by.  Pure.

A Lease that nobody owns would stay when everything else of a release is uninstalled.
"""

from __future__ import annotations

import base64
import json

from zeus_operator.kube import Object


def owner_by_token(authorization: str, namespace: str) -> Object | None:
    """Return the ownerReference to the ServiceAccount that a token is of.

    Args:
        authorization: the header "Bearer TOKEN" that the API server is shown. The signature is not
            looked at: the token is our own.
        namespace: of the Lease.

    Returns:
        None where there is no such account in the namespace: with a person's kubeconfig, or a
        Lease elsewhere. An owner is always of the same namespace.
    """
    try:
        payload = authorization.split(".")[1]
        text = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        claims = json.loads(text)["kubernetes.io"]
        if claims["namespace"] != namespace:
            return None
        account = claims["serviceaccount"]
        name, uid = str(account["name"]), str(account["uid"])
    except (IndexError, KeyError, TypeError, ValueError):  # not a token of a ServiceAccount
        return None
    return {"apiVersion": "v1", "kind": "ServiceAccount", "name": name, "uid": uid}
