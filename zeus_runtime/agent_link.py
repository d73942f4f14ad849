"""Connects this run with the node's agent, if there is one."""

from __future__ import annotations

import os
import re
from typing import Mapping, Optional

from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.agent_client import find_agent
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
    request = SessionRequest(
        job=settings.job, recurrence=settings.recurrence, attempt=settings.attempt
    )
    try:
        agent = BackgroundAgent(address, session_name(settings), request)
    except ValueError as error:
        notices.warn("agent", f"{error}. Training goes on at the power limit that there is")
        return None
    agent.start()
    return agent


def session_name(settings: RunSettings) -> str:
    """Return a name that no other process on this machine has, of letters that need no quoting."""
    parts = [settings.job or "run", settings.recurrence, str(settings.attempt), str(os.getpid())]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", ".".join(part for part in parts if part))[-120:]
