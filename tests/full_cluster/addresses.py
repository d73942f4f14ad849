"""The addresses of one cluster: a block 10.x.0.0/16 of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

MAX_NODES = 16
_SECOND_OCTETS = range(200, 250)


class NoFreeAddresses(Exception):  # noqa: N818 - a state of the machine
    """The machine's networks leave no block free."""


@dataclass(frozen=True)
class Addresses:
    """What lies where in the cluster's block.

    Args:
        second_octet: the x of 10.x.0.0/16.
    """

    second_octet: int

    @property
    def block(self) -> IPv4Network:
        """All of it."""
        return IPv4Network(f"10.{self.second_octet}.0.0/16")

    @property
    def host(self) -> IPv4Address:
        """This machine, as the nodes see it."""
        return self.block[1]

    @property
    def control_plane(self) -> IPv4Address:
        """The API server and the DNS server."""
        return self.block[2]

    def node(self, number: int) -> IPv4Address:
        """The node; they are numbered from 1."""
        return self.block[10 + number]

    @property
    def pods(self) -> IPv4Network:
        """Pods of all nodes."""
        return IPv4Network(f"10.{self.second_octet}.64.0/18")

    def pods_of(self, node_number: int) -> IPv4Network:
        """Pods of one node."""
        return IPv4Network(f"10.{self.second_octet}.{64 + node_number}.0/24")

    @property
    def services(self) -> IPv4Network:
        """Cluster addresses of Services."""
        return IPv4Network(f"10.{self.second_octet}.128.0/17")

    @property
    def dns(self) -> IPv4Address:
        """The Service that resolves names, the tenth as everywhere."""
        return self.services[10]


def free_addresses(taken: Iterable[IPv4Network]) -> Addresses:
    """Return the first block that overlaps nothing of `taken`.

    Raises:
        NoFreeAddresses: there is none.
    """
    networks = tuple(taken)
    for octet in _SECOND_OCTETS:
        found = Addresses(octet)
        if not any(found.block.overlaps(network) for network in networks):
            return found
    raise NoFreeAddresses(
        f"10.{_SECOND_OCTETS[0]}.0.0/16 to 10.{_SECOND_OCTETS[-1]}.0.0/16 are all in use on this "
        "machine: `ip route` shows by what; end clusters that nobody needs"
    )
