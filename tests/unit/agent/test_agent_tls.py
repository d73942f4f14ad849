"""The certificate that the server shows, and the socket that it listens on."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.support.async_scenario import Clock, scenario, soon
from tests.support.echo_service import GET, OK, Echo
from tests.support.tls_server import certificate_for, new_authority
from zeus_agent import listeners
from zeus_agent.certificate_dates import expires_at
from zeus_agent.connections import Connections
from zeus_agent.listeners import Listener, SocketError, address_of, listen_tcp
from zeus_agent.tls import Certificates, show_expiry
from zeus_operator.trust.certificates import Leaf, issue, key_pem_of, make_authority, pem_of

AUTHORITY = new_authority()


def put(folder: Path, leaf: Leaf) -> Certificates:
    """Write files and return what reads them."""
    (folder / "tls.crt").write_text(pem_of(leaf.certificate))
    (folder / "tls.key").write_text(key_pem_of(leaf.key))
    return Certificates(folder / "tls.crt", folder / "tls.key")


def test_files_that_have_not_changed_are_not_read_again(tmp_path: Path) -> None:
    certificates = put(tmp_path, certificate_for(AUTHORITY))
    assert certificates.refresh()
    first = certificates.context
    assert not certificates.refresh()
    assert certificates.context is first


def test_a_secret_that_the_kubelet_has_swapped_is_seen(tmp_path: Path) -> None:
    """A mounted Secret is a link to a link to a folder; an update replaces the link between."""
    for version in ("one", "two"):
        folder = tmp_path / version
        folder.mkdir()
        put(folder, certificate_for(AUTHORITY))
    data = tmp_path / "..data"
    data.symlink_to("one")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    certificates = Certificates(tmp_path / "tls.crt", tmp_path / "tls.key")
    certificates.refresh()
    first = certificates.context
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").replace(data)
    assert certificates.refresh()
    assert certificates.context is not first


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("no file", "tls.key: No such file"),
        ("half a file", "in PEM"),
        ("another key", "not that of the certificate"),
        ("no PEM", "in PEM"),
    ],
)
def test_a_certificate_that_can_not_be_used_leaves_the_one_before(
    tmp_path: Path, damage: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = put(tmp_path, certificate_for(AUTHORITY))
    certificates.refresh()
    before = certificates.context
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    if damage == "no file":
        key.unlink()
    elif damage == "half a file":
        certificate.write_text(certificate.read_text()[:200])
    elif damage == "another key":
        key.write_text(key_pem_of(certificate_for(AUTHORITY).key))
    else:
        certificate.write_bytes(b"\x00\xff")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert not certificates.refresh()
    assert certificates.context is before
    assert said in certificates.reason
    assert len(caplog.records) == 1, "it is said once"
    put(tmp_path, certificate_for(AUTHORITY))
    assert certificates.refresh()
    assert not certificates.reason


@scenario
async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(tmp_path: Path) -> None:
    leaf = certificate_for(AUTHORITY)
    certificates = put(tmp_path, leaf)
    certificates.refresh()
    listening = listen_tcp("127.0.0.1:0")
    port = int(address_of(listening).rpartition(":")[2])
    connections = Connections(Echo(), asyncio.get_running_loop().time)
    listener = Listener(listening, connections, certificates)
    serving = asyncio.create_task(listener.serve())
    trust = ssl.create_default_context(cadata=AUTHORITY.pem)

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust, server_hostname="localhost"
        )
        shown = writer.get_extra_info("peercert")["serialNumber"]
        return reader, writer, int(shown, 16)

    reader, writer, serial = await connect()
    assert serial == leaf.certificate.serial_number
    renewed = certificate_for(AUTHORITY)
    put(tmp_path, renewed)
    certificates.refresh()
    _, other, serial = await connect()
    assert serial == renewed.certificate.serial_number
    writer.write(GET)
    assert await reader.readline() == OK
    other.close()
    await listener.close()
    await asyncio.gather(serving, return_exceptions=True)
    await connections.close(1.0)


@scenario
async def test_handshakes_that_do_not_end_make_room_for_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "MAX_HANDSHAKES", 2)
    monkeypatch.setattr(listeners, "HANDSHAKE_SECONDS", 1000.0)
    certificates = put(tmp_path, certificate_for(AUTHORITY))
    certificates.refresh()
    listening = listen_tcp("127.0.0.1:0")
    port = int(address_of(listening).rpartition(":")[2])
    service = Echo()
    connections = Connections(service, asyncio.get_running_loop().time)
    listener = Listener(listening, connections, certificates)
    serving = asyncio.create_task(listener.serve())
    loop = asyncio.get_running_loop()
    mute = []
    for _ in range(3):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setblocking(False)
        mute.append(peer)
    assert await loop.sock_recv(mute[0], 1) == b"", "the oldest had to go"
    trust = ssl.create_default_context(cadata=AUTHORITY.pem)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trust, server_hostname="localhost"
    )
    writer.write(GET)
    assert await reader.readline() == OK
    for peer in mute:
        peer.close()
    writer.close()
    await soon(lambda: len(connections) == 0, "all have gone")
    await listener.close()
    await asyncio.gather(serving, return_exceptions=True)


class Watched(socket.socket):
    """A listening socket that notes, at each accept, how often something else had its turn."""

    turns = 0
    turns_at_accept: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        accepted = super().accept()
        self.turns_at_accept.append(self.turns)
        return accepted


@scenario
async def test_callers_that_wait_when_serving_begins_stop_nothing_and_fill_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "MAX_HANDSHAKES", 4)
    monkeypatch.setattr(listeners, "HANDSHAKE_SECONDS", 1000.0)
    certificates = put(tmp_path, certificate_for(AUTHORITY))
    certificates.refresh()
    listening = Watched(fileno=listen_tcp("127.0.0.1:0").detach())
    listening.turns_at_accept = []
    address = listening.getsockname()
    mute = [socket.create_connection(address) for _ in range(100)]
    for peer in mute:
        peer.setblocking(False)
    loop = asyncio.get_running_loop()

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            listening.turns += 1

    turns = asyncio.create_task(take_turns())
    connections = Connections(Echo(), loop.time)
    listener = Listener(listening, connections, certificates)
    serving = asyncio.create_task(listener.serve())
    for peer in mute[:96]:
        assert await loop.sock_recv(peer, 1) == b"", "all but the newest had to go"
    for peer in mute[96:]:
        with pytest.raises(BlockingIOError):
            peer.recv(1)
    assert len(set(listening.turns_at_accept)) == 100, "others had a turn between any two"
    turns.cancel()
    for peer in mute:
        peer.close()
    await listener.close()
    await asyncio.gather(serving, turns, return_exceptions=True)
    await connections.close(1.0)


class Failing(socket.socket):
    """A listening socket whose next accepts fail."""

    errors: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            raise OSError(self.errors.pop(0), "as the test wants")
        return super().accept()


@pytest.mark.parametrize(
    ("number", "makes_room"), [(errno.EMFILE, True), (errno.ENOMEM, True), (errno.EPROTO, False)]
)
def test_without_room_a_connection_is_given_up_and_it_is_said_once(
    number: int, makes_room: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "PAUSE_SECONDS", 0.0)

    @scenario
    async def check() -> None:
        listening = Failing(fileno=listen_tcp("127.0.0.1:0").detach())
        listening.errors = []
        address = listening.getsockname()
        connections = Connections(Echo(), asyncio.get_running_loop().time)
        listener = Listener(listening, connections)
        serving = asyncio.create_task(listener.serve())
        first, _writer = await asyncio.open_connection(*address)
        await soon(lambda: len(connections) == 1, "it is counted")
        listening.errors = [number] * 3
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET)
        assert await reader.readline() == OK
        assert first.at_eof() is makes_room
        writer.close()
        await listener.close()
        await asyncio.gather(serving, return_exceptions=True)
        await connections.close(1.0)

    with caplog.at_level(logging.WARNING):
        check()
    assert len(caplog.records) == int(makes_room)


@scenario
async def test_a_listening_socket_that_is_broken_ends_serving() -> None:
    listening = Failing(fileno=listen_tcp("127.0.0.1:0").detach())
    listening.errors = [errno.EINVAL]
    listener = Listener(listening, Connections(Echo(), asyncio.get_running_loop().time))
    with socket.create_connection(listening.getsockname()), pytest.raises(OSError, match="wants"):
        await listener.serve()
    listening.close()


def test_when_the_certificate_expires_is_known_and_shown(tmp_path: Path) -> None:
    registry, clock = CollectorRegistry(), Clock(0.0)
    name = "zeus_agent_certificate_expiry_timestamp_seconds"
    leaf = certificate_for(AUTHORITY)
    expiry = leaf.certificate.not_valid_after_utc.timestamp()
    certificates = Certificates(tmp_path / "tls.crt", tmp_path / "tls.key", clock)
    show_expiry(certificates, registry)
    assert registry.get_sample_value(name) == 0.0
    put(tmp_path, leaf)
    certificates.refresh()
    assert registry.get_sample_value(name) == certificates.expires_at == expiry
    assert certificates.missing() == ""
    clock.seconds = expiry
    assert "has expired" in certificates.missing()
    (tmp_path / "tls.crt").write_text("half a certif")
    certificates.refresh()
    assert "can't be used" in certificates.missing()


@pytest.mark.parametrize("year", [2049, 2050], ids=["UTCTime", "GeneralizedTime"])
def test_both_ways_to_write_a_date_are_read(year: int) -> None:
    now, then = datetime.now(UTC), datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    authority = make_authority(now, then + timedelta(days=2) - now)
    leaf = issue(authority, ("localhost",), now, then - now)
    read = expires_at(pem_of(leaf.certificate))
    assert read == leaf.certificate.not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    "damage", [b"", b"\x30", b"\x30\x85", b"\x30\x03\x30\x01\xa0", b"\x17" * 40]
)
def test_what_is_no_certificate_has_no_date(damage: bytes) -> None:
    assert expires_at(ssl.DER_cert_to_PEM_cert(damage)) is None
    assert expires_at("no PEM") is None


@scenario
async def test_no_tls_session_can_be_resumed(tmp_path: Path) -> None:
    """A ticket of TLS 1.2 would be made with a key that lives as long as the certificate."""
    certificates = put(tmp_path, certificate_for(AUTHORITY))
    certificates.refresh()
    listening = listen_tcp("127.0.0.1:0")
    connections = Connections(Echo(), asyncio.get_running_loop().time)
    listener = Listener(listening, connections, certificates)
    serving = asyncio.create_task(listener.serve())
    trust = ssl.create_default_context(cadata=AUTHORITY.pem)
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection(
        *listening.getsockname(), ssl=trust, server_hostname="localhost"
    )
    assert not writer.get_extra_info("ssl_object").session.has_ticket
    writer.close()
    await listener.close()
    await asyncio.gather(serving, return_exceptions=True)
    await connections.close(1.0)


@scenario
async def test_nobody_is_served_before_there_is_a_certificate(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls.crt", tmp_path / "tls.key")
    certificates.refresh()
    listening = listen_tcp("127.0.0.1:0")
    port = int(address_of(listening).rpartition(":")[2])
    connections = Connections(Echo(), asyncio.get_running_loop().time)
    listener = Listener(listening, connections, certificates)
    serving = asyncio.create_task(listener.serve())
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
    assert len(connections) == 0
    await listener.close()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("address", ["", "8443", "host:", "host:port", "127.0.0.1:70000", ":-1"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(SocketError, match="HOST:PORT"):
        listen_tcp(address)


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(SocketError, match=r"203\.0\.113\.1:0"):
        listen_tcp("203.0.113.1:0")


def test_every_address_and_ipv6_can_be_listened_at() -> None:
    with listen_tcp(":0") as everywhere:
        assert address_of(everywhere).startswith("0.0.0.0:")
    if socket.has_ipv6:
        with listen_tcp("[::1]:0") as six:
            assert address_of(six).startswith("[::1]:")
