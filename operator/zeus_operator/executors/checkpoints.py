"""The moments at which a crash has to be harmless, named so that tests can crash at each.

The engine and the local executor call an injected function with one of these before and after
every step that has an effect.  In production it does nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable


class Checkpoint(enum.StrEnum):
    """One moment between two effects, in the order in which a run passes them."""

    SERVICES_DATABASE_READY = "services-database-ready"
    SERVICES_AGENT_READY = "services-agent-ready"
    JOB_APPLIED = "job-applied"
    JOB_LOCKED = "job-locked"
    REQUEST_STORED = "request-stored"
    FACTS_LOADED = "facts-loaded"
    BEFORE_CREATE_RECURRENCE = "before-create-recurrence"
    AFTER_CREATE_RECURRENCE = "after-create-recurrence"
    BEFORE_DECIDE_ATTEMPT = "before-decide-attempt"
    AFTER_DECIDE_ATTEMPT = "after-decide-attempt"
    BEFORE_START_ATTEMPT = "before-start-attempt"
    CHILD_OWNER_WRITTEN = "child-owner-written"
    CHILD_DIRECTORY_MADE = "child-directory-made"
    CHILD_SHIM_SPAWNED = "child-shim-spawned"
    CHILD_CLAIMED = "child-claimed"
    BEFORE_RECORD_START = "before-record-start"
    AFTER_RECORD_START = "after-record-start"
    WAITING_FOR_CHILD = "waiting-for-child"
    BEFORE_RECORD_END = "before-record-end"
    AFTER_RECORD_END = "after-record-end"
    BEFORE_CLOSE_ATTEMPT = "before-close-attempt"
    AFTER_CLOSE_ATTEMPT = "after-close-attempt"
    BEFORE_PRUNE = "before-prune"
    AFTER_PRUNE = "after-prune"
    BEFORE_CLOSE_RECURRENCE = "before-close-recurrence"
    AFTER_CLOSE_RECURRENCE = "after-close-recurrence"


CheckpointHook = Callable[[Checkpoint], None]


def no_checkpoint(moment: Checkpoint) -> None:
    """Let `moment` go by."""
    del moment


class ClusterCheckpoint(enum.StrEnum):
    """The moments of a run in a cluster, in the order in which it passes them."""

    JOB_APPLIED = "job-applied"
    REQUEST_STORED = "request-stored"
    FACTS_LOADED = "facts-loaded"
    BEFORE_CREATE_RECURRENCE = "before-create-recurrence"
    AFTER_CREATE_RECURRENCE = "after-create-recurrence"
    BEFORE_DECIDE_ATTEMPT = "before-decide-attempt"
    AFTER_DECIDE_ATTEMPT = "after-decide-attempt"
    BEFORE_CREATE_CHILD = "before-create-child"
    AFTER_CREATE_COMPANION = "after-create-companion"
    AFTER_CREATE_CHILD = "after-create-child"
    BEFORE_RECORD_CHILD = "before-record-child"
    AFTER_RECORD_CHILD = "after-record-child"
    BEFORE_RECORD_END = "before-record-end"
    AFTER_RECORD_END = "after-record-end"
    BEFORE_STOP_CHILD = "before-stop-child"
    AFTER_STOP_CHILD = "after-stop-child"
    BEFORE_CLOSE_ATTEMPT = "before-close-attempt"
    AFTER_CLOSE_ATTEMPT = "after-close-attempt"
    BEFORE_CLOSE_RECURRENCE = "before-close-recurrence"
    AFTER_CLOSE_RECURRENCE = "after-close-recurrence"
    BEFORE_PROJECT_STATUS = "before-project-status"
    AFTER_PROJECT_STATUS = "after-project-status"
    BEFORE_POST_EVENTS = "before-post-events"
    AFTER_POST_EVENTS = "after-post-events"
    BEFORE_PRUNE = "before-prune"
    AFTER_PRUNE = "after-prune"


ClusterCheckpointHook = Callable[[ClusterCheckpoint], None]


def no_cluster_checkpoint(moment: ClusterCheckpoint) -> None:
    """Let `moment` go by."""
    del moment
