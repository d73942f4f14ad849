"""One certificate authority and what it has signed, made by the program `openssl`."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

DAYS = "30"


class Authority:
    """Keys and certificates under `folder`.

    Elliptic curves, because making an RSA key takes a part of a second.

    Attributes:
        certificate: PEM file of the authority itself.
        service_account_key: PEM file of the key that signs tokens.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.certificate, self._key = folder / "ca.crt", folder / "ca.key"
        self.service_account_key = folder / "service-account.key"
        self._make_key(self._key)
        self._make_key(self.service_account_key)
        _openssl(
            *("req", "-x509", "-new", "-key", self._key, "-subj", "/CN=test-ca"),
            *("-days", DAYS, "-out", self.certificate),
        )

    def sign(self, name: str, subject: str, alternative_names: str = "") -> tuple[Path, Path]:
        """Return certificate and key for `subject`, e.g. "/O=system:masters/CN=admin"."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        self._make_key(key)
        _openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
        names = f"subjectAltName={alternative_names}\n" if alternative_names else ""
        extensions.write_text(f"{names}extendedKeyUsage=serverAuth,clientAuth\n")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key),
            *("-CAcreateserial", "-days", DAYS, "-extfile", extensions, "-out", certificate),
        )
        return certificate, key

    @staticmethod
    def _make_key(path: Path) -> None:
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)


def base64_of(path: Path) -> str:
    """Return the contents of `path` as a kubeconfig embeds them."""
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(*arguments: str | Path) -> None:
    try:
        made = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise RuntimeError("tests/cluster needs the program `openssl`: install it") from None
    if made.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {made.stderr.strip()}")
