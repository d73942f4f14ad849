"""Sessions: who trains, and until when they count as alive.  Pure; time comes as an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from zeus_agent.leases import Refused
from zeus_runtime.protocol import ErrorCode, Result, SessionRequest

MAX_SESSIONS_PER_USER = 64
"""More than GPUs on any machine; a caller in a loop must not fill the memory."""


@dataclass(frozen=True)
class Owner:
    """A process.  The start time tells a reused pid apart (clock ticks since boot)."""

    pid: int
    start_ticks: int
    uid: int


@dataclass
class Session:
    """One open session."""

    name: str
    owner: Owner
    request: SessionRequest
    expires_at_seconds: float
    gpu_uuids: set[str] = field(default_factory=set)
    report: Result | None = None


class Sessions:
    """All open sessions, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def open(
        self, name: str, owner: Owner, request: SessionRequest, now_seconds: float
    ) -> tuple[Session, bool]:
        """Open a session, or renew the owner's own; return it and whether it is new.

        Raises:
            Refused: it belongs to another process, or the user has too many.
        """
        session = self._by_name.get(name)
        if session is not None:
            self._check_owner(session, owner)
            session.request = request
            self._renew(session, now_seconds)
            return session, False
        if sum(s.owner.uid == owner.uid for s in self._by_name.values()) >= MAX_SESSIONS_PER_USER:
            raise Refused(
                ErrorCode.TOO_MANY_SESSIONS,
                f"user {owner.uid} has {MAX_SESSIONS_PER_USER} open sessions; close some first",
            )
        session = Session(name, owner, request, now_seconds + request.ttl_seconds)
        self._by_name[name] = session
        return session, True

    def use(self, name: str, owner: Owner, now_seconds: float) -> Session:
        """Return the caller's session, with its whole time to live again.

        Raises:
            Refused: there is none of that name, or it belongs to another process.
        """
        session = self.get(name)
        self._check_owner(session, owner)
        self._renew(session, now_seconds)
        return session

    def get(self, name: str) -> Session:
        """Return a session.

        Raises:
            Refused: there is none of that name.
        """
        session = self._by_name.get(name)
        if session is None:
            raise Refused(
                ErrorCode.NOT_FOUND,
                f"session {name!r} is not open (never opened, expired, ended, or the agent has "
                "restarted); open it again",
                session=name,
            )
        return session

    def find(self, name: str) -> Session | None:
        """Return a session, or None."""
        return self._by_name.get(name)

    def end(self, name: str) -> Session | None:
        """Remove a session and return it."""
        return self._by_name.pop(name, None)

    def expired(self, now_seconds: float) -> list[Session]:
        """Return the sessions whose time to live is over."""
        return [s for s in self._by_name.values() if s.expires_at_seconds <= now_seconds]

    def of(self, owner: Owner) -> list[Session]:
        """Return the sessions of one process."""
        return [s for s in self._by_name.values() if s.owner == owner]

    def all(self) -> list[Session]:
        """Return all sessions."""
        return list(self._by_name.values())

    @staticmethod
    def _renew(session: Session, now_seconds: float) -> None:
        session.expires_at_seconds = now_seconds + session.request.ttl_seconds

    @staticmethod
    def _check_owner(session: Session, owner: Owner) -> None:
        if session.owner != owner:
            raise Refused(
                ErrorCode.FORBIDDEN,
                f"session {session.name!r} belongs to process {session.owner.pid}, "
                f"not to {owner.pid}; each process opens its own",
            )
