"""The optimizer: observations in, a decision with its reason out.  Pure; numpy at most."""

from __future__ import annotations

from collections.abc import Callable

from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.zeus import ZeusPolicy

_POLICIES: dict[str, Callable[[], FoldingPolicy]] = {
    StructuredPolicy.name: StructuredPolicy,
    ZeusPolicy.name: ZeusPolicy,
}
POLICY_NAMES: tuple[str, ...] = tuple(_POLICIES)


def policy(name: str) -> FoldingPolicy:
    """Return the policy called `name`.

    Raises:
        ValueError: there is none of that name; the text lists those there are.
    """
    try:
        return _POLICIES[name]()
    except KeyError:
        known = ", ".join(POLICY_NAMES)
        raise ValueError(f"no policy {name!r}; there are: {known}") from None
