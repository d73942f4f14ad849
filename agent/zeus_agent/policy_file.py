"""The administrator's policy, from a YAML file that may change while the agent runs.

A file that is wrong is refused with the path of what is wrong in it, and what
was read before stays in force.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from zeus_agent.policy import Amount, GpuRule, Policy

T = TypeVar("T")

VERSION = 1
CHANGES_PER_MINUTE = 120.0
_MAX_BYTES = 128 << 10
_MAX_RULES = 1000
_MAX_WATTS = 10_000.0
_MAX_PERCENT = 200.0
_MAX_MESSAGE = 500
_MAX_NAME = 100
_MAX_KEYS = 1000  # of one mapping, with what is merged into it

_reprs = reprlib.Repr()
_reprs.maxlevel = 2  # aliases make small files of huge values


class PolicyError(Exception):
    """The policy can't be used; the text says where and why."""


class _NotReadError(PolicyError):
    """The file can't be read now, whatever is in it."""


class PolicySource(Protocol):
    """Where the keeper gets the policy from."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""

    @property
    def problem(self) -> str:
        """Why what is there now is not in force; "" if it is."""

    def refresh(self) -> bool:
        """Look whether there is another policy; return whether one is in force since now.

        Blocks, for as long as a file takes to read and understand.
        """


class PolicyFile:
    """A policy file and the newest valid policy that it has held.

    Args:
        path: of the file; a ConfigMap's link is followed anew each time.

    Raises:
        PolicyError: it can't be read, or is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._problem = ""
        self._seen: Hashable = self._stamp()
        self._digest, self._policy = self._read()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def problem(self) -> str:
        """Why what the file holds now is not in force; "" if it is."""
        return self._problem

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether another policy is in force."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            digest, policy = self._read()
        except PolicyError as error:
            self._problem = str(error)
            if isinstance(error, _NotReadError):
                self._seen = None  # it may be read the next time though nothing has changed
            return False
        self._problem = ""
        is_other = digest != self._digest and policy != self._policy
        self._digest, self._policy = digest, policy
        return is_other

    def _stamp(self) -> Hashable:
        """Return what changes when the file does; a swapped link leads to another inode."""
        try:
            status = self.path.stat()
        except OSError as error:
            return error.errno
        return (
            *(status.st_dev, status.st_ino, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns),  # one can be set by hand, the other can't
        )

    def _read(self) -> tuple[str, Policy]:
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise _NotReadError(
                f"the policy {self.path} can't be read: {error.strerror}"
            ) from error
        if len(data) > _MAX_BYTES:
            raise PolicyError(f"the policy {self.path} is larger than {_MAX_BYTES >> 10} KiB")
        try:
            return hashlib.sha256(data).hexdigest(), parse_policy(data)
        except PolicyError as error:
            raise PolicyError(f"the policy {self.path} is refused: {error}") from None


def parse_policy(data: bytes) -> Policy:
    """Return the policy in a YAML document.

    Raises:
        PolicyError: it is wrong; the text names the key by its path.
    """
    try:
        raw = yaml.load(data, _Loader)
    except Exception as error:  # what a tag promises and a value does not keep, raises anything
        what = str(error) if isinstance(error, yaml.YAMLError) else repr(error)
        raise PolicyError(f"no YAML: {' '.join(what.split())[:_MAX_MESSAGE]}") from None
    top = _Keys(raw, "")
    version = top.get("version", _any, None)
    if version != VERSION or isinstance(version, bool):
        raise PolicyError(f"version: expected {VERSION}, found {_shown(version)}")
    namespaces = _Keys(top.get("namespaces", _any, {}), "namespaces")
    policy = Policy(
        allowed_namespaces=namespaces.get("allow", _patterns, ("*",)),
        denied_namespaces=namespaces.get("deny", _patterns, ()),
        shares=top.get("sharedGpus", _one_of("Deny", "Allow"), "Deny") == "Allow",
        changes_per_minute=top.get("maxChangesPerMinute", _number(60_000.0), CHANGES_PER_MINUTE),
        enable_persistence=top.get("persistenceMode", _one_of("Keep", "Enable"), "Keep")
        == "Enable",
        dry_run=top.get("dryRun", _truth, False),
        gpus=top.get("gpus", _rules, ()),
    )
    namespaces.require_all_known()
    top.require_all_known()
    return policy


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which would take the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str) and key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {key!r} is there twice")
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_KEYS:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: a mapping of more than {_MAX_KEYS} keys")


class _Keys:
    """A mapping of the file, read key by key; what nobody asked for is an error."""

    def __init__(self, raw: object, path: str) -> None:
        if not isinstance(raw, Mapping):
            raise PolicyError(f"{path or 'the document'}: expected keys and values")
        self._raw = raw
        self._path = path
        self._known: list[str] = []

    def get(self, key: str, parse: Callable[[object, str], T], default: T) -> T:
        self._known.append(key)
        return parse(self._raw[key], self.path(key)) if key in self._raw else default

    def path(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def require_all_known(self) -> None:
        for key in self._raw:
            if key not in self._known:
                name = key[:_MAX_NAME] if isinstance(key, str) else _shown(key)
                known = ", ".join(sorted(self._known))
                raise PolicyError(f"{self.path(name)}: unknown; there are {known}")


def _shown(value: object) -> str:
    """Return a value of the file for a message: in short, however large it is."""
    try:
        return _reprs.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a huge number"


def _any(value: object, path: str) -> Any:  # noqa: ARG001 -- one shape for all parsers
    return value


def _truth(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{path}: expected true or false, found {_shown(value)}")
    return value


def _text(value: object, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyError(f"{path}: expected text, found {_shown(value)}")
    return value


def _one_of(*choices: str) -> Callable[[object, str], str]:
    def parse(value: object, path: str) -> str:
        if value not in choices:
            raise PolicyError(f"{path}: expected {' or '.join(choices)}, found {_shown(value)}")
        return str(value)

    return parse


def _number(at_most: float) -> Callable[[object, str], float]:
    def parse(value: object, path: str) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0.0 < value <= at_most:  # type: ignore[operator]  # a number, if it gets so far
            raise PolicyError(
                f"{path}: expected a number above 0 and at most {at_most:g}, found {_shown(value)}"
            )
        return float(value)  # type: ignore[arg-type]

    return parse


def _list(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise PolicyError(f"{path}: expected a list, found {_shown(value)}")
    return value


def _patterns(value: object, path: str) -> tuple[str, ...]:
    return tuple(_text(each, f"{path}[{i}]") for i, each in enumerate(_list(value, path)))


def _rules(value: object, path: str) -> tuple[GpuRule, ...]:
    found = _list(value, path)
    if len(found) > _MAX_RULES:
        raise PolicyError(f"{path}: more than {_MAX_RULES}")
    return tuple(_rule(each, f"{path}[{index}]") for index, each in enumerate(found))


def _rule(value: object, path: str) -> GpuRule:
    keys = _Keys(value, path)
    model = keys.get("model", _text, "")
    if not model:
        raise PolicyError(f"{keys.path('model')}: missing; '*' is every model")
    rule = GpuRule(model, _amount(keys, "min"), _amount(keys, "max"), _amount(keys, "default"))
    keys.require_all_known()
    for low_name, low, high_name, high in (
        ("min", rule.minimum, "max", rule.maximum),
        ("min", rule.minimum, "default", rule.default),
        ("default", rule.default, "max", rule.maximum),
    ):
        if low is not None and high is not None and _is_above(low, high):
            raise PolicyError(f"{path}: its {low_name} ({low}) is above its {high_name} ({high})")
    return rule


def _amount(keys: _Keys, name: str) -> Amount | None:
    watts = keys.get(f"{name}Watts", _optional_number(_MAX_WATTS), None)
    percent = keys.get(f"{name}Percent", _optional_number(_MAX_PERCENT), None)
    if watts is not None and percent is not None:
        raise PolicyError(
            f"{keys.path(f'{name}Watts')}: {name}Percent is given too; give one of the two"
        )
    return None if watts is None and percent is None else Amount(watts, percent)


def _optional_number(at_most: float) -> Callable[[object, str], float | None]:
    return _number(at_most)


def _is_above(one: Amount, other: Amount) -> bool:
    """Whether an amount is above another one on every device."""
    if one.watts is not None and other.watts is not None:
        return one.watts > other.watts
    if one.percent is not None and other.percent is not None:
        return one.percent > other.percent
    return False
