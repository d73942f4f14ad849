"""Where the API server is, whom it takes us for, and how we know that it is the one."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

CREDENTIAL_SECONDS = 30.0
"""So often the token and the CA are looked at: the kubelet replaces both while we run."""

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiNotConfigured(ValueError):  # noqa: N818 -- a fact about the surroundings
    """Nothing says where the API server is; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where the API server is and how to be believed.

    Args:
        url: e.g. "https://10.96.0.1:443".
        token_file: with our own bearer token; None: no token is sent.
        ca_file: certificates that sign the server's; None: those of the system.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None

    @classmethod
    def in_cluster(
        cls, environ: Mapping[str, str] = os.environ, account: Path = _ACCOUNT
    ) -> ApiAddress:
        """Return what every pod is given.

        Raises:
            ApiNotConfigured: this is no pod, or it has no service account token.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise ApiNotConfigured(
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this process "
                "does not run in a pod; say where the API server is with --kube-api"
            )
        token_file = account / "token"
        if not token_file.exists():
            raise ApiNotConfigured(
                f"{token_file} does not exist; the pod needs automountServiceAccountToken: true"
            )
        shown = f"[{host}]" if ":" in host else host
        return cls(f"https://{shown}:{port}", token_file, account / "ca.crt")


class Credentials:
    """Our token and the CA, read again now and then.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, address: ApiAddress, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._read_at_seconds: float | None = None
        self._token = ""
        self._authority: bytes | None = None
        self._context: ssl.SSLContext | bool = True

    def forget(self) -> None:
        """Read them again before the next request."""
        self._read_at_seconds = None

    def current(self) -> tuple[str, ssl.SSLContext | bool]:
        """Return the token ("" for none) and how to check the server.

        Raises:
            OSError, ValueError: a file can't be read or holds no certificate.
        """
        now = self._clock()
        if self._read_at_seconds is None or now - self._read_at_seconds >= CREDENTIAL_SECONDS:
            address = self._address
            if address.token_file is not None:
                self._token = address.token_file.read_text().strip()
            if address.ca_file is not None:
                authority = address.ca_file.read_bytes()
                if authority != self._authority:
                    self._context, self._authority = _context(authority), authority
            self._read_at_seconds = now
        return self._token, self._context


def _context(authority: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.decode())
    # From 3.13 on Python demands extensions that the CAs of older clusters do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
