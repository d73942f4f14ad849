"""Kubernetes' expansion of `$(NAME)` in env values, command and args.  Pure.

The rules are those of the kubelet (k8s.io/kubernetes third_party/forked/golang/expansion):
`$(NAME)` becomes the value of NAME, an unknown name stays as it is written, `$$` stands for one
`$` (so `$$(NAME)` is the literal text `$(NAME)`), and everything else is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

_TOKEN = re.compile(r"\$(?:(?P<escape>\$)|\((?P<name>[^)]*)\))")


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` with every known `$(NAME)` replaced.  Values are not expanded again."""

    def replacement(match: re.Match[str]) -> str:
        if match["escape"]:
            return "$"
        return environment.get(match["name"], match[0])

    return _TOKEN.sub(replacement, text)


def expand_all(texts: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return each of `texts` expanded: a command or its args."""
    return [expand(text, environment) for text in texts]


def expand_environment(entries: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the environment that a list of `env` entries gives.

    An entry sees only the entries before it; of two entries with one name the
    later one wins (and sees the earlier).
    """
    environment: dict[str, str] = {}
    for name, value in entries:
        environment[name] = expand(value, environment)
    return environment


def references(text: str) -> Iterator[str]:
    """Yield the names that `text` refers to as `$(NAME)`, escaped ones left out."""
    for match in _TOKEN.finditer(text):
        if not match["escape"]:
            yield match["name"]
