"""The ConfigMap of a history: written where it differs, and a stranger's left alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.config_maps import NAME, OWNER, ConfigMaps
from zeus_operator.history import config_map
from zeus_operator.history.keeper import FormerThere, HistoryKeeper, NotOurs
from zeus_operator.kube import Conflict, KubeError, Refused
from zeus_operator.world import Key

KEY = Key("default", "digits")


class Bench:
    """A keeper on a cluster."""

    def __init__(self, cluster: ConfigMaps | None = None) -> None:
        self.cluster = cluster or ConfigMaps()
        self.made = 0
        self.keeper = HistoryKeeper(self.cluster)

    def keep(self, made_of: str, uid: str = "uid-1") -> None:
        def contents() -> bytes:
            self.made += 1
            return f"history of {made_of}".encode()

        self.keeper.keep(KEY, uid, made_of, contents)

    @property
    def binary_data(self) -> dict[str, str | None]:
        """As the last write left it; None: it was taken out."""
        found: dict[str, str | None] = self.cluster.objects[NAME]["binaryData"]
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_is_created_with_its_owner_and_labels(bench: Bench) -> None:
    bench.keep("one")

    metadata = bench.cluster.objects[NAME]["metadata"]
    assert metadata["ownerReferences"] == [{**OWNER, "uid": "uid-1", "controller": True}]
    assert metadata["labels"] == {
        "zeus.energy/job": "digits",
        "zeus.energy/job-uid": "uid-1",
        "app.kubernetes.io/managed-by": "zeus-operator",
    }
    assert bench.cluster.contents == b"history of one"


def test_what_has_not_changed_is_neither_made_nor_asked_for(bench: Bench) -> None:
    for _ in range(3):
        bench.keep("one")

    assert bench.cluster.requests == ["GET", "POST"]
    assert bench.made == 1


def test_what_has_changed_is_written_by_one_request(bench: Bench) -> None:
    bench.keep("one")
    bench.cluster.requests.clear()

    bench.keep("two")

    assert bench.cluster.requests == ["PATCH"]
    assert bench.cluster.contents == b"history of two"


def test_another_process_looks_once_and_writes_nothing_that_is_there(bench: Bench) -> None:
    bench.keep("one")
    restarted = Bench(bench.cluster)
    bench.cluster.requests.clear()

    for _ in range(3):
        restarted.keep("one")
    assert restarted.made == 0
    assert bench.cluster.requests == ["GET"]

    restarted.keep("two")
    assert bench.cluster.requests == ["GET", "PATCH"]


def test_one_that_has_been_deleted_is_made_anew_at_once(bench: Bench) -> None:
    bench.keep("one")
    del bench.cluster.objects[NAME]
    bench.cluster.requests.clear()

    bench.keep("two")

    assert bench.cluster.contents == b"history of two"
    assert bench.cluster.requests == ["PATCH", "POST"]


def test_who_loses_the_lead_before_a_deleted_one_is_made_anew_writes_nothing(bench: Bench) -> None:
    class Lost(Exception):  # noqa: N818 - stands for LeadershipLost
        pass

    class Leads:
        times = 2  # before it is created, and before it is changed

        def __call__(self) -> None:
            self.times -= 1
            if self.times < 0:
                raise Lost

    keeper = HistoryKeeper(bench.cluster, Leads())
    keeper.keep(KEY, "uid-1", "one", lambda: b"one")
    del bench.cluster.objects[NAME]

    with pytest.raises(Lost):
        keeper.keep(KEY, "uid-1", "two", lambda: b"two")

    assert bench.cluster.objects == {}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"labels": {"zeus.energy/job": "digits", "zeus.energy/job-uid": "uid-1"}},
        {"ownerReferences": [{**OWNER, "uid": "uid-1"}]},
        {"ownerReferences": [{**OWNER, "name": "other", "uid": "uid-1", "controller": True}]},
        {"ownerReferences": [{**OWNER, "kind": "Job", "uid": "uid-1", "controller": True}]},
        {"ownerReferences": [{**OWNER, "apiVersion": "v1", "uid": "uid-1", "controller": True}]},
    ],
)
def test_a_strangers_is_never_touched(bench: Bench, metadata: dict[str, Any]) -> None:
    bench.cluster.put(**metadata)
    before = str(bench.cluster.objects)

    for _ in range(2):
        with pytest.raises(NotOurs):
            bench.keep("one")

    assert str(bench.cluster.objects) == before
    assert bench.cluster.requests == ["GET", "GET"]
    assert bench.made == 0


def test_that_of_a_former_zeusjob_is_left_to_the_garbage_collector(bench: Bench) -> None:
    bench.keep("old", uid="uid-0")

    with pytest.raises(FormerThere):
        bench.keep("one")
    assert bench.cluster.contents == b"history of old"

    del bench.cluster.objects[NAME]
    bench.keep("one")
    assert bench.cluster.contents == b"history of one"


def test_what_another_replica_has_written_meanwhile_is_not_written_over_at_once(
    bench: Bench,
) -> None:
    bench.keep("one")
    Bench(bench.cluster).keep("three")

    with pytest.raises(Conflict):
        bench.keep("two")

    assert bench.cluster.contents == b"history of three"


def test_what_others_have_put_beside_it_stays(bench: Bench) -> None:
    bench.keep("one")
    bench.cluster.objects[NAME]["binaryData"]["mine"] = "eA=="

    bench.keep("two")

    assert bench.cluster.objects[NAME]["binaryData"]["mine"] == "eA=="


def test_one_that_is_not_wanted_any_more_is_emptied_once_and_filled_again_if_it_is(
    bench: Bench,
) -> None:
    bench.keep("one")
    bench.cluster.objects[NAME]["binaryData"]["mine"] = "eA=="
    without = Bench(bench.cluster)
    bench.cluster.requests.clear()

    for _ in range(3):
        without.keeper.empty(KEY, "uid-1")
    assert bench.cluster.requests == ["GET", "PATCH"]
    assert without.binary_data == {config_map.KEY: None, "mine": "eA=="}

    restarted = Bench(bench.cluster)
    bench.cluster.requests.clear()
    restarted.keeper.empty(KEY, "uid-1")
    assert bench.cluster.requests == ["GET"]

    Bench(bench.cluster).keep("one")
    assert bench.cluster.contents == b"history of one"


def test_none_is_made_to_be_empty(bench: Bench) -> None:
    for _ in range(3):
        bench.keeper.empty(KEY, "uid-1")

    assert bench.cluster.requests == ["GET"]
    assert bench.cluster.objects == {}


def test_only_ours_is_emptied(bench: Bench) -> None:
    bench.cluster.put(labels={"zeus.energy/job": "digits", "zeus.energy/job-uid": "uid-1"})
    before = str(bench.cluster.objects)

    bench.keeper.empty(KEY, "uid-1")
    assert str(bench.cluster.objects) == before

    former = Bench()
    former.keep("old", uid="uid-0")
    former.keeper.empty(KEY, "uid-1")
    assert former.cluster.contents == b"history of old"


def test_who_leads_no_more_empties_nothing(bench: Bench) -> None:
    class Lost(Exception):  # noqa: N818 - stands for LeadershipLost
        pass

    def guard() -> None:
        raise Lost

    bench.keep("one")
    with pytest.raises(Lost):
        HistoryKeeper(bench.cluster, guard).empty(KEY, "uid-1")
    assert bench.cluster.contents == b"history of one"


def test_without_the_right_to_look_nothing_is_made(bench: Bench) -> None:
    bench.cluster.refuses_reads = Refused(403, "Forbidden", "no get")

    with pytest.raises(KubeError, match="no get"):
        bench.keep("one")

    assert bench.made == 0


def test_who_leads_no_more_writes_nothing(bench: Bench) -> None:
    class Lost(Exception):  # noqa: N818 - stands for LeadershipLost
        pass

    def guard() -> None:
        raise Lost

    with pytest.raises(Lost):
        HistoryKeeper(bench.cluster, guard).keep(KEY, "uid-1", "one", lambda: b"stale")
    assert bench.cluster.objects == {}


def test_a_name_is_a_function_of_the_jobs_and_fits() -> None:
    long, longer = "a" * 253, "a" * 252 + "b"

    assert config_map.name_of("digits") == NAME
    assert config_map.name_of("a" * 240) == "a" * 240 + "-zeus-history"
    assert len(config_map.name_of(long)) == 253
    assert config_map.name_of(long) == config_map.name_of(long)
    assert config_map.name_of(long) != config_map.name_of(longer)
    assert "-." not in config_map.name_of("a" * 222 + "." * 31)
