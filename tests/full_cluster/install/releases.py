"""One release at a time, kept for as long as the next test module wants the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.chart.support.helm import Helm
from tests.cluster.support.api import Api
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.install.database import DatabaseForPods
from tests.full_cluster.install.release import Release


class Releases:
    """Installs releases, each on an empty database.  `end` removes the last one."""

    def __init__(
        self, cluster: FullCluster, helm: Helm, api: Api, databases: DatabaseForPods
    ) -> None:
        self._cluster = cluster
        self._helm = helm
        self._api = api
        self._databases = databases
        self._made = 0
        self._there: Release | None = None
        self._well_with: Mapping[str, Any] | None = None

    def with_changes(self, changes: Mapping[str, Any]) -> Release:
        """Return the release that is there if its values are these, else a new one."""
        there = self._there
        # A test that failed half-way may have left it uninstalled.
        if there is not None and self._well_with == changes and there.is_installed:
            return there
        self.end()
        self._made += 1
        url = self._databases.create(f"release_{self._made}")
        self._there = Release(self._cluster, self._helm, self._api, url, changes)
        self._there.prepare()
        self._there.install()
        self._well_with = changes
        return self._there

    def end(self) -> None:
        """Remove the release that is there, with all that it leaves on purpose."""
        there, self._there, self._well_with = self._there, None, None
        if there is not None:
            there.remove_all()
