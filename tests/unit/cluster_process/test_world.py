"""The cache of what the watches have shown, and a resync that puts right what they have missed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.jobs import spec_document
from zeus_operator.records import JobRecord
from zeus_operator.resync import Listed, Resync, WatchStalled
from zeus_operator.store.store import Store
from zeus_operator.world import Key, Resource, World

KEY = Key("default", "digits")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def body(uid: str, name: str = "digits", *, version: str = "1", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": uid,
            "generation": 1,
            "resourceVersion": version,
            "labels": {f"zeus.energy/{key}": value for key, value in labels.items()},
        },
        "spec": {},
    }


def child(uid: str, name: str = "child") -> dict[str, Any]:
    return body(uid, name, job="digits")


def pod(uid: str, recurrence: str = "7", attempt: str = "1") -> dict[str, Any]:
    return body(uid, f"pod-{uid}", job="digits", recurrence=recurrence, attempt=attempt)


class TestWorld:
    def test_an_event_says_whose_it_is(self) -> None:
        world = World()
        assert world.apply(Resource.ZEUSJOBS, "ADDED", body("z")) == KEY
        assert world.apply(Resource.JOBS, "ADDED", child("j")) == KEY
        assert world.apply(Resource.PODS, "ADDED", pod("p")) == KEY
        assert world.apply(Resource.PODS, "ADDED", body("stranger")) is None

    def test_a_zeusjob_made_anew_under_its_name_is_another(self) -> None:
        world = World()
        world.apply(Resource.ZEUSJOBS, "ADDED", body("old"))
        world.apply(Resource.ZEUSJOBS, "ADDED", body("new"))
        world.apply(Resource.ZEUSJOBS, "DELETED", body("old"))  # late

        found = world.zeusjob(KEY)
        assert found is not None
        assert found.uid == "new"
        assert world.was_deleted("old")

    def test_a_pod_that_is_gone_is_kept_until_its_end_is_stored(self) -> None:
        world = World()
        world.apply(Resource.PODS, "ADDED", pod("p"))
        world.apply(Resource.PODS, "DELETED", pod("p"))
        assert [each["gone"] for each in world.pods(KEY, 7, 1)] == [True]

        world.forget_gone_pods(KEY, [(7, 1)])
        assert len(world.pods(KEY, 7, 1)) == 1, "its attempt goes on"
        world.forget_gone_pods(KEY, [])
        assert world.pods(KEY, 7, 1) == ()

    def test_a_pod_that_is_there_is_not_forgotten(self) -> None:
        world = World()
        world.apply(Resource.PODS, "ADDED", pod("p"))
        world.forget_gone_pods(KEY, [])
        assert len(world.pods(KEY, 7, 1)) == 1

    def test_a_child_that_was_just_created_is_there_before_its_event(self) -> None:
        world = World()
        world.note_child(KEY, child("j"))
        found = world.child(KEY, "child")
        assert found is not None
        assert found["metadata"]["uid"] == "j"

    def test_the_event_of_a_child_that_was_just_created_is_no_news(self) -> None:
        world = World()
        world.note_child(KEY, child("j"))
        assert world.apply(Resource.JOBS, "ADDED", child("j")) is None
        assert world.apply(Resource.JOBS, "DELETED", child("j")) == KEY

    @pytest.mark.parametrize(
        ("resource", "make"), [(Resource.JOBS, child), (Resource.PODS, pod)], ids=["jobs", "pods"]
    )
    def test_what_nobody_reads_of_a_child_or_pod_is_no_news(
        self, resource: Resource, make: Callable[[str], dict[str, Any]]
    ) -> None:
        world = World()
        world.apply(resource, "ADDED", make("x"))
        unread = make("x")
        unread["metadata"]["resourceVersion"] = "2"
        unread["status"] = {"active": 1, "qosClass": "Burstable"}
        assert world.apply(resource, "MODIFIED", unread) is None
        assert world.versions(resource) == {"x": "2"}, "but it was seen"
        assert world.apply(resource, None, unread) == KEY, "a list always is"
        started = {**unread, "status": {"startTime": "2026-03-01T12:00:00Z"}}
        assert world.apply(resource, "MODIFIED", started) == KEY
        assert world.apply(resource, "DELETED", started) == KEY

    def test_the_event_of_a_status_that_we_have_written_is_no_news(self) -> None:
        world = World()
        world.apply(Resource.ZEUSJOBS, "ADDED", body("z", version="9"))
        world.note_zeusjob({**body("z", version="10"), "status": {"phase": "ours"}})
        found = world.zeusjob(KEY)
        assert found is not None
        assert found.contents()[1] == {"phase": "ours"}
        assert world.apply(Resource.ZEUSJOBS, "MODIFIED", body("z", version="10")) is None
        assert world.versions(Resource.ZEUSJOBS) == {"z": "10"}
        assert world.apply(Resource.ZEUSJOBS, "MODIFIED", body("z", version="11")) == KEY

    @pytest.mark.parametrize(
        "change",
        [
            {"uid": "another"},
            {"generation": 2},
            {"deletionTimestamp": "2026-03-01T12:00:00Z"},
            {"annotations": {"zeus.energy/run": "3"}},
        ],
        ids=["made anew", "spec", "deleted", "asked"],
    )
    def test_what_others_have_changed_while_a_status_was_written_is_news(
        self, change: dict[str, Any]
    ) -> None:
        world = World()
        world.apply(Resource.ZEUSJOBS, "ADDED", body("z", version="9"))
        changed = body("z", version="11")
        changed["metadata"] |= change
        world.note_zeusjob(changed)
        assert world.apply(Resource.ZEUSJOBS, "MODIFIED", changed) == KEY

    def test_an_answer_that_the_watch_has_overtaken_is_not_kept(self) -> None:
        world = World()
        world.apply(Resource.ZEUSJOBS, "MODIFIED", body("z", version="11"))
        world.note_zeusjob(body("z", version="10"))
        found = world.zeusjob(KEY)
        assert found is not None
        assert found.resource_version == "11"

    def test_a_zeusjob_that_is_gone_does_not_come_back_with_a_late_answer(self) -> None:
        world = World()
        world.apply(Resource.ZEUSJOBS, "ADDED", body("z", version="9"))
        world.apply(Resource.ZEUSJOBS, "DELETED", body("z", version="11"))
        world.note_zeusjob(body("z", version="10"))
        assert world.zeusjob(KEY) is None


class Lists:
    """What the API server would list; `meanwhile` happens between the first list and the next."""

    def __init__(self) -> None:
        self.objects: dict[Resource, list[Listed]] = {resource: [] for resource in Resource}
        self.meanwhile: Callable[[], object] = lambda: None

    def list(self, resource: Resource) -> list[Listed]:
        found = list(self.objects[resource])
        if resource is Resource.ZEUSJOBS:
            self.meanwhile()
        return found

    def has(self, resource: Resource, uid: str, version: str = "1") -> None:
        self.objects[resource] = [Listed(KEY, uid, version)]


class Bench:
    """A resync over a real store."""

    def __init__(self, store: Store) -> None:
        self.store, self.world, self.lists = store, World(), Lists()
        self.now = NOW
        self.enqueued: list[Key] = []
        self.deleted: list[JobRecord] = []
        self._resync = Resync(
            store,
            self.world,
            self.lists,  # type: ignore[arg-type]
            self.enqueued.append,
            self.deleted.append,
            absence_confirm=timedelta(minutes=5),
            retention=timedelta(days=30),
            clock=lambda: self.now,
        )

    def run(self, *, served: bool = True) -> None:
        self._resync.run(lambda _namespace: served)

    def stored(self, uid: str) -> JobRecord:
        return self.store.apply_job(
            "default",
            "digits",
            spec_document(),
            manifest_path="",
            policy="structured",
            seed=1,
            now=self.now,
            uid=uid,
            namespace_uid="ns",
        )


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store)


@pytest.mark.postgres
class TestResync:
    def test_a_child_whose_deletion_was_missed_leaves_the_cache(self, bench: Bench) -> None:
        bench.world.apply(Resource.JOBS, "ADDED", child("j"))
        bench.run()
        assert bench.world.child(KEY, "child") is None
        assert bench.enqueued == [KEY]

    def test_a_pod_whose_deletion_was_missed_is_gone(self, bench: Bench) -> None:
        bench.world.apply(Resource.PODS, "ADDED", pod("p"))
        bench.run()
        assert [each["gone"] for each in bench.world.pods(KEY, 7, 1)] == [True]

    def test_what_appears_while_the_lists_are_made_stays(self, bench: Bench) -> None:
        bench.lists.meanwhile = lambda: bench.world.apply(Resource.ZEUSJOBS, "ADDED", body("new"))
        bench.run()
        assert bench.world.zeusjob(KEY) is not None

    def test_a_watch_that_lags_behind_two_resyncs_has_stalled(self, bench: Bench) -> None:
        bench.world.apply(Resource.ZEUSJOBS, "ADDED", body("z", version="5"))
        bench.lists.has(Resource.ZEUSJOBS, "z", "9")
        bench.run()
        with pytest.raises(WatchStalled, match="zeusjobs"):
            bench.run()

    def test_a_watch_that_has_caught_up_has_not(self, bench: Bench) -> None:
        bench.world.apply(Resource.ZEUSJOBS, "ADDED", body("z", version="5"))
        bench.lists.has(Resource.ZEUSJOBS, "z", "9")
        bench.run()
        bench.world.apply(Resource.ZEUSJOBS, "MODIFIED", body("z", version="9"))
        bench.lists.has(Resource.ZEUSJOBS, "z", "12")  # behind again, by something new
        bench.run()

    def test_a_stored_zeusjob_is_gone_after_two_lists_far_enough_apart(self, bench: Bench) -> None:
        job = bench.stored("z")
        bench.run()
        bench.now += timedelta(minutes=4)
        bench.run()
        assert bench.deleted == []
        bench.now += timedelta(minutes=1)
        bench.run()
        assert bench.deleted == [job]

    def test_one_that_comes_back_in_between_is_not(self, bench: Bench) -> None:
        bench.stored("z")
        bench.run()
        bench.lists.has(Resource.ZEUSJOBS, "z")
        bench.world.apply(Resource.ZEUSJOBS, "ADDED", body("z"))
        bench.run()
        bench.lists.objects[Resource.ZEUSJOBS] = []
        bench.now += timedelta(minutes=9)
        bench.run()
        assert bench.deleted == []

    def test_one_of_a_namespace_that_is_not_served_is_left_alone(self, bench: Bench) -> None:
        bench.stored("z")
        for _ in range(3):
            bench.run(served=False)
            bench.now += timedelta(minutes=9)
        assert bench.deleted == []

    def test_a_zeusjob_that_was_never_stored_is_looked_at(self, bench: Bench) -> None:
        bench.world.apply(Resource.ZEUSJOBS, "ADDED", body("z"))
        bench.lists.has(Resource.ZEUSJOBS, "z")
        bench.run()
        assert bench.enqueued == [KEY]

    def test_an_idle_one_is_not(self, bench: Bench) -> None:
        bench.stored("z")
        bench.world.apply(Resource.ZEUSJOBS, "ADDED", body("z"))
        bench.lists.has(Resource.ZEUSJOBS, "z")
        bench.run()
        assert bench.enqueued == []
