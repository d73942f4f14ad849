"""Each cluster has a name and addresses of its own, and nothing of a dead one stays."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.full_cluster.addresses import NoFreeAddresses, free_addresses
from tests.full_cluster.instance import Instance, clean, find_instances

_CLAIM_AND_DIE = """
import os, pathlib, sys
from tests.full_cluster.instance import Instance
Instance.claim(directory=pathlib.Path(sys.argv[1]))
os._exit(1)
"""


def claim_and_die(directory: Path) -> None:
    subprocess.run([sys.executable, "-c", _CLAIM_AND_DIE, str(directory)], check=False)


def test_two_instances_share_neither_name_nor_addresses(tmp_path: Path) -> None:
    first = Instance.claim(directory=tmp_path / "clusters")
    second = Instance.claim(directory=tmp_path / "clusters")

    assert first.name != second.name
    assert not first.addresses.block.overlaps(second.addresses.block)
    first.remove()
    second.remove()


def test_the_last_instance_takes_the_common_folder_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "clusters"
    first, second = Instance.claim(directory=directory), Instance.claim(directory=directory)

    first.remove()
    assert [found.name for found in find_instances(directory)] == [second.name]
    second.remove()
    assert not directory.exists()


def test_an_instance_is_alive_as_long_as_its_owner(tmp_path: Path) -> None:
    claim_and_die(tmp_path)
    mine = Instance.claim(directory=tmp_path)
    claim_and_die(tmp_path)

    alive = {found.name: found.alive for found in find_instances(tmp_path)}

    assert alive.pop(mine.name) is True
    assert list(alive.values()) == [False]
    mine.remove()


def test_what_a_dead_owner_left_is_removed_and_the_living_ones_are_not(tmp_path: Path) -> None:
    mine = Instance.claim(directory=tmp_path)
    claim_and_die(tmp_path)
    dead = [found.name for found in find_instances(tmp_path) if not found.alive]

    assert clean(tmp_path) == dead
    assert [found.name for found in find_instances(tmp_path)] == [mine.name]
    mine.remove()


def test_a_block_that_is_routed_is_not_taken() -> None:
    taken = [
        IPv4Network("10.200.7.0/24"),
        IPv4Network("10.201.0.0/16"),
        IPv4Network("172.17.0.0/16"),
    ]

    assert free_addresses(taken).block == IPv4Network("10.202.0.0/16")


def test_a_machine_whose_networks_leave_no_block_is_told_so() -> None:
    with pytest.raises(NoFreeAddresses, match="ip route"):
        free_addresses([IPv4Network("10.0.0.0/8")])
