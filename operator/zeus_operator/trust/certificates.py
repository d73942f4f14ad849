"""Certificates: elliptic curve P-256, made and read.  No files, no network, no clock of its own.

What is read may be half written or edited by anybody, so reading never fails: what can't be used
is left out and named.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED = timedelta(hours=1)
"""A certificate is valid so long before it is made: clocks of a cluster differ."""

_BLOCK = re.compile(
    r"-----BEGIN (?P<kind>[A-Z ]{1,40})-----\s.{1,20000}?-----END (?P=kind)-----", re.DOTALL
)
_MOST_BLOCKS = 32
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True)
class Authority:
    """A certificate authority.

    Args:
        key: None: it is not there, so nothing new can be signed.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """Return what tells it from all others."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def pem(self) -> str:
        """Return its certificate as text."""
        return pem_of(self.certificate)


@dataclass(frozen=True)
class Leaf:
    """A server's certificate with its key, both whole."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def names(self) -> frozenset[str]:
        """Return the host names and addresses that it is for."""
        return _names_of(self.certificate)


def make_authority(now: datetime, life: timedelta) -> Authority:
    """Return a new authority that is valid for `life` from `now` on."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The subject tells authorities apart, also for programs that choose an issuer by its name.
    name = _name(f"zeus-agent-ca {now:%Y-%m-%dT%H:%M:%SZ} {x509.random_serial_number():x}"[:64])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, name, key.public_key(), now, now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def issue(authority: Authority, names: Sequence[str], now: datetime, life: timedelta) -> Leaf:
    """Return a server's certificate for `names`, which never outlives its authority.

    Raises:
        ValueError: the authority has no key.
    """
    if authority.key is None:
        raise ValueError("the authority's key is not there")
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + life, authority.certificate.not_valid_after_utc)
    issuer = authority.certificate
    builder = (
        _builder(_name(names[0][:64]), issuer.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    return Leaf(builder.sign(authority.key, hashes.SHA256()), key)


def read_authorities(certificates: str, keys: str) -> tuple[tuple[Authority, ...], tuple[str, ...]]:
    """Return the authorities in two PEM texts, each with its key, and what could not be read.

    One whose key is missing is kept: what it has signed is still to be trusted.
    """
    problems: list[str] = []
    known = {_public(key.public_key()): key for key in _keys(keys, problems)}
    found: dict[str, Authority] = {}
    for certificate in _certificates(certificates, problems):
        if not _is_authority(certificate):
            problems.append(f"{certificate.subject.rfc4514_string()[:100]} is no authority")
            continue
        authority = Authority(certificate, known.get(_public(certificate.public_key())))
        if authority.key is None:
            problems.append(f"{certificate.subject.rfc4514_string()[:100]} lacks its key")
        found[authority.fingerprint] = authority
    return tuple(found.values()), tuple(problems)


def read_leaf(certificate: str, key: str) -> Leaf | None:
    """Return a server's certificate and key; None: one is missing, broken, or not the other's."""
    problems: list[str] = []
    found = list(_certificates(certificate, problems))
    keys = list(_keys(key, problems))
    if not found or not keys or _public(found[0].public_key()) != _public(keys[0].public_key()):
        return None
    return Leaf(found[0], keys[0])


def issuer_of(leaf: Leaf, authorities: Iterable[Authority]) -> Authority | None:
    """Return which of `authorities` has signed `leaf`; None: none of them."""
    for authority in authorities:
        try:
            leaf.certificate.verify_directly_issued_by(authority.certificate)
        except (*_UNREADABLE, InvalidSignature):
            continue
        return authority
    return None


def canonical_name(name: str) -> str:
    """Return a host name or address as `Leaf.names` has it: an address has several forms."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def pem_of(certificate: x509.Certificate) -> str:
    """Return a certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key as text, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _names_of(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (*_UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension):
        return frozenset()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return frozenset((*names.get_values_for_type(x509.DNSName), *addresses))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (*_UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return found.ca


def _public(key: object) -> bytes:
    """Return a public key in a form that can be compared; b"": it is of a kind not used here."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def _certificates(text: str, problems: list[str]) -> Iterable[x509.Certificate]:
    for block in _blocks(text):
        try:
            certificate = x509.load_pem_x509_certificate(block)
            is_usable = bool(_public(certificate.public_key()))
        except _UNREADABLE as error:
            problems.append(f"a certificate can't be read: {error}"[:200])
            continue
        if is_usable:
            yield certificate
        else:
            problems.append("a certificate has a key of another kind than elliptic curve")


def _keys(text: str, problems: list[str]) -> Iterable[ec.EllipticCurvePrivateKey]:
    for block in _blocks(text):
        try:
            key = serialization.load_pem_private_key(block, password=None)
        except _UNREADABLE:
            problems.append("a key can't be read")  # not its words: they may quote the key
            continue
        if isinstance(key, ec.EllipticCurvePrivateKey):
            yield key
        else:
            problems.append("a key is of another kind than elliptic curve")


def _blocks(text: str) -> list[bytes]:
    found = [match.group(0).encode() for match in _BLOCK.finditer(text)]
    return found[:_MOST_BLOCKS]
