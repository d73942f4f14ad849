"""Connects this run with the node's agent, if there is one."""

from __future__ import annotations

import os
import re
import secrets
from typing import Mapping, Optional

from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.agent_client import AgentClient, find_agent
from zeus_runtime.agent_transport import is_unix
from zeus_runtime.notices import Notices
from zeus_runtime.protocol import SessionRequest
from zeus_runtime.settings import RunSettings


def connect_agent(
    environ: Mapping[str, str], settings: RunSettings, notices: Notices
) -> Optional[BackgroundAgent]:
    """Start connecting in the background; None: there is no agent to connect to."""
    address = find_agent(environ)
    if address is None:
        return None
    sees_process = is_unix(address)
    request = SessionRequest(
        job=settings.job,
        recurrence=settings.recurrence,
        attempt=settings.attempt,
        ends_with_connection=not sees_process,
    )
    # Containers of one pod have the same pids, and the agent sees none of them.
    process = str(os.getpid()) if sees_process else secrets.token_hex(6)
    try:
        client = AgentClient(address, environ=environ)
        agent = BackgroundAgent(client, session_name(settings, process), request)
    except ValueError as error:
        notices.warn("agent", f"{error}. Training goes on at the power limit that there is")
        return None
    agent.start()
    return agent


def session_name(settings: RunSettings, process: str) -> str:
    """Return the name of this run's session, of letters that need no quoting.

    Args:
        settings: who trains what, for people.
        process: what no other process has that the agent could take for this one.
    """
    parts = [settings.job or "run", settings.recurrence, str(settings.attempt), process]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", ".".join(part for part in parts if part))[-120:]
