"""How long a look at the trust in agents may take, and what it does first.

Everything else of it runs on a real API server: `tests/cluster/test_trust.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.support.trust_cluster import TrustCluster
from zeus_operator.trust.keeper import PUBLISH_SECONDS, TrustKeeper, Where

OWN = "zeus-system"
HOSTS = ["zeus-agent.zeus-system.svc"]


def keeper_of(cluster: TrustCluster, hosts: list[str] | None = None) -> TrustKeeper:
    return TrustKeeper(
        cluster,
        Where(OWN),
        hosts or HOSTS,
        lambda: None,
        lambda: datetime(2026, 3, 2, 12, tzinfo=UTC),
        lambda: cluster.seconds,
    )


def namespaces(count: int) -> list[str]:
    return [f"team-{number:02d}" for number in range(count)]


def test_what_the_first_runs_have_to_know_is_ready_before_anything_is_published() -> None:
    cluster = TrustCluster(*namespaces(10))
    cluster.config_maps_fail = True
    keeper = keeper_of(cluster)
    assert keeper.prepare() == ()
    assert "BEGIN CERTIFICATE" in keeper.bundle
    assert [each.rsplit("/", 1)[1] for each in cluster.writes] == [
        "zeus-agent-ca",
        "zeus-agent-tls",
    ]
    assert all("/secrets/" in each for each in cluster.writes)


def test_a_look_publishes_for_a_bounded_time_and_the_next_one_goes_on_there() -> None:
    cluster = TrustCluster(*namespaces(10))
    cluster.config_map_seconds = PUBLISH_SECONDS / 4
    keeper = keeper_of(cluster)
    (said,) = keeper.look()
    assert said == "ConfigMap zeus-agent-ca: 7 namespaces are left for the next look"
    assert cluster.published == {"team-00", "team-01", "team-02", "team-03"}
    assert any(each.endswith("/zeus-agent-tls") for each in cluster.writes), "and issues"
    assert len(keeper.look()) == 1
    assert keeper.look() == ()
    assert cluster.published == {OWN, *namespaces(10)}


def test_namespaces_that_fail_slowly_keep_no_others_from_their_turn() -> None:
    cluster = TrustCluster(*namespaces(10))
    cluster.config_map_seconds = PUBLISH_SECONDS / 4
    cluster.config_maps_fail = True
    keeper = keeper_of(cluster)
    keeper.look()
    cluster.config_maps_fail = False
    keeper.look()
    assert "team-04" in cluster.published
    assert "team-00" not in cluster.published


def test_to_withdraw_takes_turns_with_publishing() -> None:
    cluster = TrustCluster(*namespaces(10))
    keeper = keeper_of(cluster)
    keeper.look()
    cluster.with_access = [f"other-{each}" for each in namespaces(10)]
    cluster.config_map_seconds = PUBLISH_SECONDS / 4
    for _ in range(5):
        keeper.look()
    assert cluster.published == {OWN, *cluster.with_access}
    assert keeper.look() == ()


@pytest.mark.parametrize("host", ["2001:DB8:0:0::7", "fd00:0000::0007", "::FFFF:192.0.2.7"])
def test_an_address_in_another_form_than_the_usual_one_is_no_other_name(host: str) -> None:
    cluster = TrustCluster()
    keeper = keeper_of(cluster, [*HOSTS, host])
    keeper.look()
    cluster.writes.clear()
    assert keeper.look() == ()
    assert keeper_of(cluster, [*HOSTS, host]).look() == (), "nor to another process"
    assert cluster.writes == []
