"""The server's certificate, read anew when its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from zeus_agent.certificate_dates import expires_at
from zeus_agent.logs import note

logger = logging.getLogger("zeus_agent.tls")

POLL_SECONDS = 2.0

_Fingerprint = tuple[tuple[int, int, int, int], ...]


class Certificates:
    """The TLS context for new connections; those that are open keep theirs.

    A context is made whole and then put in place, so that a file that is half written, or a
    certificate whose key has not come yet, changes nothing.

    Args:
        certificate: PEM file of the certificate and those between it and the CA.
        key: PEM file of its private key.
        wall_clock: seconds since 1970.

    Attributes:
        context: for new connections; None: nobody can connect yet.
        expires_at: when the certificate in use does, seconds since 1970; None: there is none, or
            it does not say it as certificates should.
    """

    def __init__(
        self, certificate: Path, key: Path, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.context: ssl.SSLContext | None = None
        self.expires_at: float | None = None
        self.reason = (
            "not read yet"  # why there is no context, or why the newest files were refused
        )
        self._certificate = certificate
        self._key = key
        self._wall_clock = wall_clock
        self._seen: _Fingerprint | None = None

    def refresh(self) -> bool:
        """Read the files if they have changed; return whether another certificate is in place."""
        seen = self._fingerprint()
        if seen is None or seen == self._seen:
            return False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        # Callers keep their connection; nobody resumes one, by TLS 1.2 or 1.3.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            # An encrypted key must not make OpenSSL ask at a terminal.
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            expiry = expires_at(self._certificate.read_text(errors="replace"))
        except (OSError, ValueError) as error:  # SSLError is an OSError
            self._refused(f"{self._certificate} and {self._key} can't be used: {_explained(error)}")
        else:
            self.context, self.expires_at, self.reason = context, expiry, ""
            note(
                logger,
                logging.INFO,
                "certificate in use",
                file=self._certificate,
                expires=None if expiry is None else _date(expiry),
            )
        # Files that changed while they were read are read again.
        self._seen = seen if seen == self._fingerprint() else None
        return not self.reason

    def missing(self) -> str:
        """Return why no caller can trust this server now; "" if callers can."""
        if self.context is None:
            return f"there is no certificate: {self.reason}"
        if self.expires_at is None or self.expires_at > self._wall_clock():
            return ""
        why = f" (the newest is refused: {self.reason})" if self.reason else ""
        return (
            f"the certificate in {self._certificate} has expired on {_date(self.expires_at)}{why}; "
            "put a new one there, it is read at once"
        )

    async def refresh_forever(self) -> None:
        """Look every two seconds."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()

    def _fingerprint(self) -> _Fingerprint | None:
        """Tell whether a file was replaced, also by a symbolic link on its way (the kubelet's)."""
        try:
            stats = [path.stat() for path in (self._certificate, self._key)]
        except OSError as error:
            self._refused(f"{error.filename}: {error.strerror}; it is read as soon as it is there")
            self._seen = None
            return None
        return tuple((s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)

    def _refused(self, reason: str) -> None:
        if reason != self.reason:
            goes_on = "the one before stays in use" if self.context else "nobody can connect by TLS"
            note(logger, logging.ERROR, f"no new certificate; {goes_on}", reason=reason)
        self.reason = reason


def show_expiry(certificates: Certificates, registry: CollectorRegistry) -> None:
    """Show Prometheus when the certificate in use expires."""
    Gauge(
        "zeus_agent_certificate_expiry_timestamp_seconds",
        "When the certificate in use expires, seconds since 1970; 0: there is none",
        registry=registry,
    ).set_function(lambda: certificates.expires_at or 0.0)


def _explained(error: OSError | ValueError) -> str:
    """Return what is wrong with the files, for whoever has to mend them."""
    if not isinstance(error, ssl.SSLError):
        return str(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate; give the two that were made together"
    return f"expected a certificate and a private key in PEM ({error.reason or error.strerror})"


def _date(wall_seconds: float) -> str:
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not")
