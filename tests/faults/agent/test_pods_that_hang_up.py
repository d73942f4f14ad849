"""A pod's process that dies while the agent still asks who it is, over TLS as in a cluster."""

from __future__ import annotations

import asyncio
import json

from tests.support.cluster_node import cluster_node, refusal
from tests.support.eventually import eventually
from zeus_runtime.protocol import ErrorCode

SESSION = json.dumps({"ttl_seconds": 600, "ends_with_connection": True})


def test_a_process_that_dies_while_its_token_is_reviewed_leaves_no_session() -> None:
    with cluster_node() as node:
        node.start_agent()
        pod = node.pod("train", node.uuids[0])
        go_on = node.api.let_reviews_go = asyncio.Event()
        connection = node.connect()
        headers = {"Authorization": f"Bearer {pod.token}"}
        connection.request("PUT", "/v1/sessions/run", SESSION, headers)
        eventually(lambda: node.api.reviewed, "its token is reviewed")
        connection.close()
        assert node.probe("/healthz")[0] == 200  # after which the agent has seen the end
        node.loop.call_soon_threadsafe(go_on.set)
        client = pod.client()
        assert refusal(client.session, "run") == (404, ErrorCode.NOT_FOUND)
        assert "eof_received" not in node.log()
