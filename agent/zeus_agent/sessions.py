"""Sessions: who trains, and until when they count as alive.  Pure; time comes as an argument."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from zeus_agent.callers import PodCaller
from zeus_agent.leases import Refused
from zeus_runtime.protocol import ErrorCode, Result, SessionRequest

MAX_SESSIONS_PER_USER = 64
"""More than GPUs on any machine; a caller in a loop must not fill the memory."""

MAX_SESSIONS_PER_POD = 16

CONNECTION_GRACE_SECONDS = 1.0
"""How long a session that ends with its connection waits for another one."""


@dataclass(frozen=True)
class Owner:
    """A process.  The start time tells a reused pid apart (clock ticks since boot)."""

    pid: int
    start_ticks: int
    uid: int


Member = Owner | PodCaller
"""Who may have sessions: a process on the Unix socket, a pod on TCP."""


@dataclass(eq=False)
class Session:
    """One open session.

    Args:
        id: tells it from all others; its leases are held under it.
        name: chosen by the caller.
        connection: the one that it ends with; None: with none.
    """

    id: str
    name: str
    owner: Member
    request: SessionRequest
    expires_at_seconds: float
    connection: Hashable | None = None
    gpu_uuids: set[str] = field(default_factory=set)
    report: Result | None = None


def session_id(name: str, caller: Member) -> str:
    """Return what tells a session from all others.

    Processes share one space of names.  Each pod has its own: what another pod has opened can be
    neither found nor taken.  No process's name begins with `~`.
    """
    return name if isinstance(caller, Owner) else f"~{caller.pod_uid}/{name}"


class Sessions:
    """All open sessions."""

    def __init__(self) -> None:
        self._by_id: dict[str, Session] = {}
        self._by_connection: dict[Hashable, set[Session]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def open(
        self,
        name: str,
        owner: Member,
        request: SessionRequest,
        now_seconds: float,
        connection: Hashable | None = None,
    ) -> tuple[Session, bool]:
        """Open a session, or renew the owner's own; return it and whether it is new.

        Args:
            name: chosen by the caller.
            owner: whose it is.
            request: its time to live, and what it is for.
            now_seconds: the time.
            connection: that the caller uses.

        Raises:
            Refused: it belongs to another process, or the owner has too many.
        """
        key = session_id(name, owner)
        session = self._by_id.get(key)
        if session is not None:
            self._check_owner(session, owner)
            session.request = request
            self._renew(session, now_seconds, connection)
            return session, False
        self._check_count(owner)
        session = Session(key, name, owner, request, 0.0)
        self._by_id[key] = session
        self._renew(session, now_seconds, connection)
        return session, True

    def use(
        self, name: str, owner: Member, now_seconds: float, connection: Hashable | None = None
    ) -> Session:
        """Return the caller's session, with its whole time to live again.

        Raises:
            Refused: there is none of that name, or it belongs to another process.
        """
        session = self.get(name, owner)
        self._check_owner(session, owner)
        self._renew(session, now_seconds, connection)
        return session

    def get(self, name: str, caller: Member) -> Session:
        """Return the session that a caller means by `name`; a process may look at any process's.

        Raises:
            Refused: there is none.
        """
        session = self._by_id.get(session_id(name, caller))
        if session is None:
            raise Refused(
                ErrorCode.NOT_FOUND,
                f"session {name!r} is not open (never opened, expired, ended, or the agent has "
                "restarted); open it again",
                session=name,
            )
        return session

    def find(self, key: str) -> Session | None:
        """Return the session of an id, or None."""
        return self._by_id.get(key)

    def end(self, key: str) -> Session | None:
        """Remove a session and return it."""
        session = self._by_id.pop(key, None)
        if session is not None:
            self._bind(session, None)
        return session

    def connection_lost(self, connection: Hashable, now_seconds: float) -> bool:
        """Leave the sessions that end with a connection a little time for another one.

        Returns:
            Whether there are such sessions.
        """
        sessions = self._by_connection.get(connection)
        if sessions is None:
            return False
        for session in tuple(sessions):
            self._bind(session, None)
            latest = now_seconds + CONNECTION_GRACE_SECONDS
            session.expires_at_seconds = min(session.expires_at_seconds, latest)
        return True

    def holds(self, connection: Hashable) -> bool:
        """Whether a session ends with this connection."""
        return connection in self._by_connection

    def expired(self, now_seconds: float) -> list[Session]:
        """Return the sessions whose time to live is over."""
        return [s for s in self._by_id.values() if s.expires_at_seconds <= now_seconds]

    def of_pod(self, pod_uid: str) -> list[Session]:
        """Return the sessions of a pod."""
        return [
            session
            for session in self._by_id.values()
            if isinstance(session.owner, PodCaller) and session.owner.pod_uid == pod_uid
        ]

    def all(self) -> list[Session]:
        """Return all sessions."""
        return list(self._by_id.values())

    def _renew(self, session: Session, now_seconds: float, connection: Hashable | None) -> None:
        session.expires_at_seconds = now_seconds + session.request.ttl_seconds
        bound = connection if session.request.ends_with_connection else None
        if bound is not session.connection:
            self._bind(session, bound)

    def _bind(self, session: Session, connection: Hashable | None) -> None:
        former = session.connection
        if former is not None:
            siblings = self._by_connection[former]
            siblings.discard(session)
            if not siblings:
                del self._by_connection[former]
        session.connection = connection
        if connection is not None:
            self._by_connection.setdefault(connection, set()).add(session)

    def _check_count(self, owner: Member) -> None:
        if isinstance(owner, PodCaller):
            count, most = len(self.of_pod(owner.pod_uid)), MAX_SESSIONS_PER_POD
            who = f"pod {owner.namespace}/{owner.pod}"
        else:
            owners = (session.owner for session in self._by_id.values())
            count = sum(isinstance(each, Owner) and each.uid == owner.uid for each in owners)
            who, most = f"user {owner.uid}", MAX_SESSIONS_PER_USER
        if count >= most:
            raise Refused(
                ErrorCode.TOO_MANY_SESSIONS, f"{who} has {most} open sessions; close some first"
            )

    @staticmethod
    def _check_owner(session: Session, owner: Member) -> None:
        theirs = session.owner
        if theirs == owner or isinstance(theirs, PodCaller):  # a pod finds only its own
            return
        process = owner.pid if isinstance(owner, Owner) else 0
        raise Refused(
            ErrorCode.FORBIDDEN,
            f"session {session.name!r} belongs to process {theirs.pid}, "
            f"not to {process}; each process opens its own",
        )
