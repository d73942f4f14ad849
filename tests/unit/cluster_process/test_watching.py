"""A kind that is installed while the operator leads is taken up, and nothing else waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import kopf
import pytest
from kubernetes.client import Configuration

from zeus_operator.kube import KubeClient, KubeUnavailable, NotFound
from zeus_operator.resync import Lister
from zeus_operator.watching import Watching
from zeus_operator.workloads.served import ServedKinds
from zeus_operator.world import Key, Resource, World

Object = dict[str, Any]
THERE = {"metadata": {"namespace": "team", "name": "run", "uid": "of-a-child"}}


class Cluster(KubeClient):
    """An API server, as the operator asks it: of what it has, and for lists.

    Attributes:
        installed: plurals of the kinds that it knows.
        jobsets: what it has of these; None: it does not answer for them.
    """

    def __init__(self) -> None:
        super().__init__(Configuration())
        self.installed: list[str] = []
        self.jobsets: list[Object] | None = []

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_rest: Any
    ) -> Object:
        assert method == "GET"
        if not query:
            if not self.installed:
                raise NotFound(404, "NotFound", path)
            return {"resources": [{"name": each} for each in self.installed]}
        if not path.endswith("/jobsets"):
            return {"items": []}
        if self.jobsets is None:
            raise KubeUnavailable(503, "", "its definition is not served everywhere yet")
        return {"items": self.jobsets}


class Site:
    """A replica that leads, with JobSets and PyTorchJobs allowed and not installed."""

    def __init__(self) -> None:
        self.cluster, self.world = Cluster(), World()
        self.woken: list[Key] = []
        self.watching = Watching(
            self.world,
            self.cluster,
            Lister(self.cluster),
            ServedKinds(("Job", "JobSet", "PyTorchJob")),
            lambda key, _is_first: self.woken.append(key),
            Configuration,
            (),
        )
        self.watching.start()

    def install(self, *plurals: str) -> None:
        self.cluster.installed = list(plurals)
        self.watching.take_up()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    async def shows_nothing(*, stop_flag: threading.Event, **_rest: object) -> None:
        await asyncio.to_thread(stop_flag.wait)

    # What kopf shows is played by the tests; without a server it would take its time to end.
    monkeypatch.setattr(kopf, "operator", shows_nothing)
    made = Site()
    yield made
    made.watching.stop()


FIRST = (Resource.ZEUSJOBS, Resource.JOBS, Resource.PODS)


def test_what_it_begins_with_is_relied_on_from_the_start(site: Site) -> None:
    assert set(site.watching.relied_on()) == set(FIRST)


def test_a_kind_that_comes_later_is_relied_on_at_once_where_there_is_none_of_it(site: Site) -> None:
    site.install("jobsets")

    assert set(site.watching.relied_on()) == {*FIRST, Resource.JOBSETS}


@pytest.mark.parametrize("there", [[THERE], None], ids=["some are there", "no answer yet"])
def test_one_whose_first_list_is_not_in_leaves_the_rest_as_ready_as_it_was(
    site: Site, there: list[Object] | None
) -> None:
    site.cluster.jobsets = there
    site.install("jobsets")

    assert Resource.JOBSETS in site.watching.watched()
    assert set(site.watching.relied_on()) == set(FIRST)

    site.cluster.jobsets = [THERE]
    labels = {"zeus.energy/job": "digits", "zeus.energy/job-uid": "u"}
    site.world.apply(Resource.JOBSETS, None, {"metadata": {**THERE["metadata"], "labels": labels}})
    site.watching.take_up()

    assert set(site.watching.relied_on()) == {*FIRST, Resource.JOBSETS}


def test_a_kind_is_relied_on_whatever_becomes_of_another_that_came_with_it(site: Site) -> None:
    site.cluster.jobsets = None
    site.install("jobsets", "pytorchjobs")

    assert set(site.watching.relied_on()) == {*FIRST, Resource.PYTORCHJOBS}
