"""Certificates: what is made is accepted by real TLS, what is broken is left out and named."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zeus_operator.trust.certificates import (
    Authority,
    Leaf,
    issue,
    issuer_of,
    key_pem_of,
    make_authority,
    pem_of,
    read_authorities,
    read_leaf,
)
from zeus_operator.trust.objects import authority_secret, certificate_secret, secret, texts_of

DAY = timedelta(days=1)
HOST = "zeus-agent.zeus-system.svc"


def now() -> datetime:
    return datetime.now(UTC)


def shake_hands(
    leaf: Leaf,
    trusted: str,
    folder: Path,
    *,
    host: str = HOST,
    strict: bool = True,
    chain: str = "",
) -> str:
    """Return how a TLS handshake with a server that shows `leaf` ends; "": well.

    Args:
        chain: certificates that the server shows besides.
    """
    both = folder / "server.pem"
    both.write_text(pem_of(leaf.certificate) + chain + key_pem_of(leaf.key))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(both)
    client = ssl.create_default_context(cadata=trusted)
    if strict:
        client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as end:
                end.recv(1)
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host) as end:
            end.send(b"x")
        return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        ours.close()
        thread.join()


def stored(authorities: Sequence[Authority]) -> tuple[str, str]:
    """Return what comes back of authorities that go through a Secret."""
    body = secret(None, "zeus-system", "ca", "Opaque", authority_secret(authorities))
    certificates, keys = texts_of(body, "ca.crt", "ca.key")
    return certificates, keys


def test_a_client_that_trusts_the_authority_accepts_the_certificate(tmp_path: Path) -> None:
    authority = make_authority(now(), 10 * DAY)
    leaf = issue(authority, [HOST, "192.0.2.7"], now(), DAY)
    assert shake_hands(leaf, authority.pem, tmp_path) == ""
    assert shake_hands(leaf, authority.pem, tmp_path, host="192.0.2.7") == ""
    assert "Hostname mismatch" in shake_hands(leaf, authority.pem, tmp_path, host="other.svc")
    other = make_authority(now(), 10 * DAY)
    assert "unable to get local issuer" in shake_hands(leaf, other.pem, tmp_path)


def test_a_client_with_old_and_new_authority_accepts_certificates_of_both(tmp_path: Path) -> None:
    old, new = make_authority(now(), 10 * DAY), make_authority(now(), 10 * DAY)
    for by in (old, new):
        assert shake_hands(issue(by, [HOST], now(), DAY), old.pem + new.pem, tmp_path) == ""


def test_an_expired_authority_in_the_bundle_harms_nobody(tmp_path: Path) -> None:
    ended, live = make_authority(now() - 10 * DAY, 5 * DAY), make_authority(now(), 10 * DAY)
    trusted = ended.pem + live.pem
    assert shake_hands(issue(live, [HOST], now(), DAY), trusted, tmp_path) == ""
    late = issue(ended, [HOST], now() - 10 * DAY, 100 * DAY)
    assert "expired" in shake_hands(late, trusted, tmp_path)


def test_a_clock_that_is_behind_by_minutes_accepts_what_was_just_made(tmp_path: Path) -> None:
    ahead = now() + timedelta(minutes=30)
    authority = make_authority(ahead, 10 * DAY)
    assert shake_hands(issue(authority, [HOST], ahead, DAY), authority.pem, tmp_path) == ""


def test_a_certificate_can_not_sign_others(tmp_path: Path) -> None:
    authority = make_authority(now(), 10 * DAY)
    leaf = issue(authority, ["one-of-us.svc"], now(), DAY)
    forged = issue(Authority(leaf.certificate, leaf.key), [HOST], now(), DAY)
    for strict in (True, False):
        said = shake_hands(
            forged, authority.pem, tmp_path, chain=pem_of(leaf.certificate), strict=strict
        )
        assert said == "invalid CA certificate"


def test_a_certificate_never_outlives_its_authority() -> None:
    authority = make_authority(now(), 10 * DAY)
    leaf = issue(authority, [HOST], now(), 90 * DAY)
    assert leaf.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_an_authority_without_a_key_signs_nothing() -> None:
    authority = make_authority(now(), 10 * DAY)
    with pytest.raises(ValueError, match="key is not there"):
        issue(Authority(authority.certificate), [HOST], now(), DAY)


def test_what_is_stored_comes_back() -> None:
    authorities = [make_authority(now(), 10 * DAY) for _ in range(3)]
    found, problems = read_authorities(*stored(authorities))
    assert problems == ()
    assert [each.fingerprint for each in found] == [each.fingerprint for each in authorities]
    assert all(each.key is not None for each in found)
    leaf = issue(found[1], [HOST], now(), DAY)
    body = secret(None, "zeus-system", "tls", "kubernetes.io/tls", certificate_secret(leaf))
    again = read_leaf(*texts_of(body, "tls.crt", "tls.key"))
    assert again is not None
    assert again.names == {HOST}
    issuer = issuer_of(again, found)
    assert issuer is not None
    assert issuer.fingerprint == authorities[1].fingerprint


def test_keys_find_their_certificates_in_any_order() -> None:
    authorities = [make_authority(now(), 10 * DAY) for _ in range(2)]
    certificates = "".join(each.pem for each in authorities)
    keys = "".join(key_pem_of(each.key) for each in reversed(authorities) if each.key)
    found, problems = read_authorities(certificates, keys)
    assert problems == ()
    assert all(
        each.key is not None
        and each.key.public_key().public_numbers() == each.certificate.public_key().public_numbers()  # type: ignore[union-attr]
        for each in found
    )


def test_an_authority_whose_key_is_missing_is_kept_and_named() -> None:
    whole, half = make_authority(now(), 10 * DAY), make_authority(now(), 10 * DAY)
    assert whole.key is not None
    found, problems = read_authorities(whole.pem + half.pem, key_pem_of(whole.key))
    assert [each.key is not None for each in found] == [True, False]
    assert len(problems) == 1
    assert "lacks its key" in problems[0]


def test_what_is_broken_is_left_out_and_the_rest_is_read() -> None:
    authority = make_authority(now(), 10 * DAY)
    assert authority.key is not None
    leaf = issue(authority, [HOST], now(), DAY)
    garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    cut = authority.pem[: len(authority.pem) // 2]
    found, problems = read_authorities(
        "no pem\n" + garbage + pem_of(leaf.certificate) + authority.pem + cut,
        key_pem_of(authority.key) + garbage,
    )
    assert [each.fingerprint for each in found] == [authority.fingerprint]
    assert found[0].key is not None
    text = " ".join(problems)
    assert "a certificate can't be read" in text
    assert f"CN={HOST} is no authority" in text
    assert "a key can't be read" in text


def test_a_key_is_shown_nowhere() -> None:
    authority = make_authority(now(), 10 * DAY)
    assert authority.key is not None
    broken = key_pem_of(authority.key)
    inner = broken.splitlines()[1]
    _, problems = read_authorities(authority.pem, broken.replace(inner, inner[::-1]))
    assert inner[:16] not in " ".join(problems)
    assert inner[::-1][:16] not in " ".join(problems)
    assert "PrivateKey" not in repr(authority)


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        ("", ""),
        ("whole", ""),
        ("", "whole"),
        ("cut", "whole"),
        ("whole", "other"),
        ("whole", "cut"),
    ],
)
def test_a_certificate_that_is_not_whole_is_none(certificate: str, key: str) -> None:
    authority = make_authority(now(), 10 * DAY)
    leaf, other = issue(authority, [HOST], now(), DAY), issue(authority, [HOST], now(), DAY)
    pem, key_pem = pem_of(leaf.certificate), key_pem_of(leaf.key)
    certificates = {"": "", "whole": pem, "cut": pem[:200]}
    keys = {"": "", "whole": key_pem, "cut": key_pem[:60], "other": key_pem_of(other.key)}
    assert read_leaf(certificates[certificate], keys[key]) is None
    assert read_leaf(pem, key_pem) is not None


@pytest.mark.parametrize("value", ["", "not base64!", base64.b64encode(b"\xff\xfe").decode(), None])
def test_a_secret_that_holds_no_text_reads_as_empty(value: str | None) -> None:
    assert texts_of({"data": {"ca.crt": value}}, "ca.crt", "ca.key") == ["", ""]
    assert texts_of({"data": None}, "ca.crt") == [""]
    assert texts_of(None, "ca.crt") == [""]
