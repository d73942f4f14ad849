"""When a certificate expires, read from its own bytes.  Pure.

The standard library tells it only of a peer's certificate.  The fields are those of RFC 5280,
section 4.1, in DER (X.690): each is a tag, a length, and so many bytes.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"
_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
_FIELDS_BEFORE_VALIDITY = 3  # serial number, signature algorithm, issuer


def expires_at(pem: str) -> float | None:
    """Return when the first certificate of a PEM text expires, seconds since 1970.

    None: there is none, or it is not written as RFC 5280 has it.
    """
    begin = pem.find(_BEGIN)
    end = pem.find(_END, begin)
    if begin < 0 or end < 0:
        return None
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)]))
    except (ValueError, IndexError):
        return None


def _not_after(der: bytes) -> float:
    certificate, _ = _inside(der, _SEQUENCE)
    fields, _ = _inside(certificate, _SEQUENCE)
    if fields[0] == _VERSION:
        fields = _after(fields)
    for _ in range(_FIELDS_BEFORE_VALIDITY):
        fields = _after(fields)
    validity, _ = _inside(fields, _SEQUENCE)
    moment = _after(validity)  # the first is from when it is valid
    content, _ = _inside(moment, moment[0])
    text = content.decode("ascii")
    if moment[0] == _UTC_TIME:  # its year has two digits, and stands for 1950 to 2049
        text = ("20" if int(text[:2]) < 50 else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _inside(der: bytes, tag: int) -> tuple[bytes, int]:
    """Return the content of the first element, and how long the element is."""
    if der[0] != tag:
        raise ValueError(f"expected an element {tag:#x}, found {der[0]:#x}")
    start, length = 2, der[1]
    if length & 0x80:  # so many bytes follow, with the length
        start += length & 0x7F
        length = int.from_bytes(der[2:start])
    if len(der) < start + length:
        raise ValueError("it ends in the middle of an element")
    return der[start : start + length], start + length


def _after(der: bytes) -> bytes:
    """Return what follows the first element."""
    return der[_inside(der, der[0])[1] :]
