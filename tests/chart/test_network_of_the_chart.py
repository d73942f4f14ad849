"""NetworkPolicies as the chart renders them; tests/full_cluster/install has them enforced."""

from __future__ import annotations

import pytest

from tests.chart.support.helm import LEAST, Helm, Values, merged

TO_THE_USERS = [{"ipBlock": {"cidr": "10.0.0.2/32"}}]
EGRESS: Values = {
    "networkPolicy": {
        "egress": {"enabled": True, "databasePorts": [6432], "databaseTo": TO_THE_USERS}
    }
}
OF_THE_CHART = {
    "app.kubernetes.io/name": "zeus-postgresql",
    "app.kubernetes.io/instance": "zeus",
}


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        ({"database": LEAST["database"]}, ([6432], TO_THE_USERS)),
        # databasePorts and databaseTo are about a database of the user's.
        (
            {"postgresql": {"enabled": True}},
            ([5432], [{"podSelector": {"matchLabels": OF_THE_CHART}}]),
        ),
    ],
    ids=["external", "evaluation"],
)
def test_the_operator_may_call_the_database_that_it_uses(
    helm: Helm, database: Values, expected: tuple[list[int], list[object]]
) -> None:
    rendered = helm.render(merged({"image": LEAST["image"]}, database, EGRESS))

    egress = rendered.get("NetworkPolicy", "zeus-operator")["spec"]["egress"]

    # After names and the API server, before the agents.
    rules = [([port["port"] for port in rule["ports"]], rule.get("to")) for rule in egress]
    assert rules[2] == expected
    assert len(rules) == 4
