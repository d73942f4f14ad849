"""Values of the operator's settings, made of their texts.  Pure.

Each function, or what it returns, raises ValueError with what is allowed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from zeus_operator.history.fitting import MAX_KIBIBYTES, MIN_KIBIBYTES
from zeus_operator.mode_limits import NamespaceMode
from zeus_operator.plan_spec import Mode
from zeus_operator.store.connection import StoreError, database_url
from zeus_operator.workloads.registry import KINDS

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,251}[A-Za-z0-9])?")
_NAMESPACE_PATTERN = re.compile(r"[a-z0-9*?]([-a-z0-9*?]{0,61}[a-z0-9*?])?")


def number(least: float, most: float, unit: str) -> Callable[[str], float]:
    """Return what reads a number within bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ValueError(f"must be a number of {unit} from {least:g} to {most:g}")
        return value

    return parse


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number within bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def pattern(wanted: re.Pattern[str], allowed: str) -> Callable[[str], str]:
    """Return what takes a text that fits a pattern.

    Args:
        allowed: the pattern in words.
    """

    def parse(text: str) -> str:
        if not wanted.fullmatch(text):
            raise ValueError(f"must be {allowed}")
        return text

    return parse


def database(text: str) -> str:
    """Take the URL of a PostgreSQL."""
    try:
        database_url(text)
    except StoreError as error:
        raise ValueError(str(error).removeprefix("DATABASE_URL ")) from error
    return text


def namespaces(text: str) -> tuple[str, ...]:
    """Read names of namespaces with commas between."""
    found = tuple(dict.fromkeys(_listed(text)))
    wrong = [name for name in found if not DNS_LABEL.fullmatch(name)]
    if wrong:
        raise ValueError(f"must be names of namespaces with commas between; {wrong[0]!r} is none")
    return found


def listen_host(text: str) -> str:
    """Take an address or a name of this machine."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return pattern(_HOST, "an address or name of this machine, such as 0.0.0.0 or ::")(text)
    return text


def host_and_port(address: str) -> tuple[str, str]:
    """Return host and port of an address, an IPv6 one without its brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def address(text: str) -> str:
    """Take host:port of another machine."""
    host, port = host_and_port(text)
    try:
        listen_host(host)
        integer(1, 65_535)(port)
    except ValueError as error:
        raise ValueError("must be host:port, such as zeus-agent.zeus-system:8443") from error
    if "%" in host:
        raise ValueError("must name no interface of one machine (%), for others call it as well")
    return text


def log_format(text: str) -> str:
    """Take the form of a log."""
    if text not in ("text", "json"):
        raise ValueError("must be text or json")
    return text


def history_kibibytes(text: str) -> int:
    """Read how much a history may take; 0: none is written."""
    if text == "0":
        return 0
    try:
        return integer(MIN_KIBIBYTES, MAX_KIBIBYTES)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or 0 for none") from None


def mode(text: str) -> Mode:
    """Read a mode of ZeusJobs."""
    try:
        return Mode(text)
    except ValueError:
        *others, last = Mode
        raise ValueError(f"must be {', '.join(others)} or {last}") from None


def modes_by_namespace(text: str) -> tuple[NamespaceMode, ...]:
    """Read namespace=mode with commas between; a namespace may be a pattern with * and ?."""
    found = tuple(_namespace_mode(each) for each in _listed(text))
    names = [each.namespace for each in found]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"must name each namespace once; {twice[0]} is there again")
    return found


def workloads(text: str) -> tuple[str, ...]:
    """Read kinds of children with commas between."""
    found = tuple(dict.fromkeys(_listed(text)))
    *others, last = KINDS
    wrong = [kind for kind in found if kind not in KINDS]
    if wrong or not found:
        allowed = f"{', '.join(others)} and {last}" if others else last
        raise ValueError(
            f"must be kinds with commas between, of {allowed}; {(wrong or [text])[0]!r} is none"
        )
    return found


def _namespace_mode(text: str) -> NamespaceMode:
    namespace, _, name = (part.strip() for part in text.partition("="))
    if not _NAMESPACE_PATTERN.fullmatch(namespace) or name not in list(Mode):
        *others, last = Mode
        raise ValueError(
            f"must be namespace=mode with commas between, such as team-*=Observe, the modes being "
            f"{', '.join(others)} and {last}; {text!r} is none"
        )
    return NamespaceMode(namespace, Mode(name))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
