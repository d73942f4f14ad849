"""What the API server says, as far as it is decided on.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenReview:
    """What the API server says of a token.

    Args:
        audiences: those of the ones asked for that the token is meant for.
        error: why it is not authenticated; may be "".
    """

    authenticated: bool
    username: str = ""
    audiences: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class LivePod:
    """What is kept of a pod.

    Args:
        zeusjob: name of its ZeusJob in its namespace as it was first seen, since whoever may
            change labels could make series of metrics without end; "" for none.
    """

    uid: str
    namespace: str
    name: str
    service_account: str
    zeusjob: str = ""
