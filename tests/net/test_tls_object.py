"""The adapter to pyOpenSSL: trio's own checks of streams, and what TLS must and must not do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from nefia.credentials import load_credentials
from nefia.net.tls import TlsStream, tls_context
from nefia.net.tls_object import RECORD_BYTES, TlsObject
from nefia.openssl import SSL
from tests.certificates import RECIPES, bake, signer, spoiled, write


@pytest.fixture
def context(tmp_path: Path) -> SSL.Context:
    return tls_context(load_credentials(write(tmp_path, bake("both", "node-1"))))


Pair = tuple[TlsStream, TlsStream]


def wrapped(context: SSL.Context, near: trio.abc.Stream, far: trio.abc.Stream) -> Pair:
    return (
        TlsStream(near, context, server_side=False),
        TlsStream(far, context, server_side=True),
    )


async def shaken(pair: Pair) -> Pair:
    async with trio.open_nursery() as nursery:
        for stream in pair:
            nursery.start_soon(stream.do_handshake)
    return pair


async def test_trio_finds_it_a_proper_stream(context: SSL.Context) -> None:
    async def make() -> Pair:
        return wrapped(context, *trio.testing.memory_stream_pair())

    async def make_clogged() -> Pair:
        # As in trio's own test: a handshake would get stuck in a stream that is clogged.
        return await shaken(wrapped(context, *trio.testing.lockstep_stream_pair()))

    await trio.testing.check_two_way_stream(make, make_clogged)


@pytest.mark.parametrize("size", [1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 1 << 20])
@pytest.mark.parametrize("take", [None, 1000, 1 << 18])
async def test_all_that_is_written_is_read(
    context: SSL.Context, size: int, take: int | None
) -> None:
    near, far = await shaken(wrapped(context, *trio.testing.memory_stream_pair()))
    sent = bytes(i * i % 251 for i in range(size))
    received = bytearray()

    async def send() -> None:
        await near.send_all(memoryview(sent))
        await near.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while data := await far.receive_some(take):
            assert take is None or len(data) <= take
            received += data
    assert received == sent


End = TlsObject | ssl.SSLObject


class Wire:
    """A client and a server without trio: what one writes is carried to the other by hand."""

    def __init__(self, client: Callable[..., End], server: Callable[..., End]) -> None:
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.from_client, self.from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client(self.to_client, self.from_client, server_side=False)
        self.server = server(self.to_server, self.from_server, server_side=True)

    def carry(self) -> tuple[int, int]:
        """How many bytes went to the server and to the client."""
        return (
            self.to_server.write(self.from_client.read()),
            self.to_client.write(self.from_server.read()),
        )

    def handshake(self) -> Wire:
        for end in (self.client, self.server):
            with pytest.raises(ssl.SSLWantReadError):
                end.do_handshake()
            self.carry()
        self.client.do_handshake()
        self.carry()
        self.server.do_handshake()
        return self


def ours(context: SSL.Context) -> Callable[..., End]:
    return lambda *bios, server_side: TlsObject(context).wrap_bio(
        *bios, server_side=server_side, server_hostname=None
    )


@pytest.fixture
def python_context(tmp_path: Path) -> ssl.SSLContext:
    """The standard library's, of a client that does not look at the server's name."""
    files = write(tmp_path / "python", bake("both", "node-2"))
    context = ssl.create_default_context(cafile=files.ca)
    context.check_hostname = False
    context.load_cert_chain(files.cert, files.key)
    return context


GOOD_BUT_FOR_ITS_IDS = ("wrong-id",)
"""Which ids a certificate may have is no matter of TLS: see test_tls_mesh."""


@pytest.mark.parametrize("we_are_server", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_whose_certificate_is_accepted(
    context: SSL.Context, tmp_path: Path, recipe: str, we_are_server: bool
) -> None:
    """The other side is Python's own TLS, which accepts anything here."""
    files = write(tmp_path / "python", bake(recipe, "node-2"))
    kind = ssl.PROTOCOL_TLS_CLIENT if we_are_server else ssl.PROTOCOL_TLS_SERVER
    python = ssl.SSLContext(kind)
    python.check_hostname = False
    python.verify_mode = ssl.CERT_NONE
    python.load_cert_chain(files.cert, files.key)
    sides = (python.wrap_bio, ours(context)) if we_are_server else (ours(context), python.wrap_bio)
    wire = Wire(*sides)
    us = wire.server if we_are_server else wire.client
    assert isinstance(us, TlsObject)
    for _ in range(3):
        for end in (wire.client, wire.server):
            with suppress(ssl.SSLError):
                end.do_handshake()
            wire.carry()
    good = RECIPES[recipe].good or recipe in GOOD_BUT_FOR_ITS_IDS
    assert (us.verdict.certificate is not None) == good
    assert bool(us.verdict.refusal) != good
    if good:
        us.do_handshake()
        assert us.verdict.chain
    else:
        with pytest.raises(ssl.SSLError, match=f"its certificate CN=node-2 {WHY[recipe]}"):
            us.do_handshake()


WHY = {
    "server-only": "has only the extended key usage serverAuth; a node's needs",
    "client-only": "has only the extended key usage clientAuth; a node's needs",
    "other-usage": r"has only the extended key usage 1\.3\.6\.1\.5\.5\.7\.3\.3; a node's needs",
    "no-usage": "has no extended key usage; a node's needs",
    "expired": "has expired",
    "expired-any": "has expired",
    "not-yet-valid": "is not valid yet",
    "self-signed": "is self-signed",
    "other-authority": "is not signed by an authority in tls_ca_file",
    "other-authority-any": "is not signed by an authority in tls_ca_file",
    "intermediate-not-sent": "is not signed by an authority in tls_ca_file",
}


def test_tls_1_3_and_not_a_byte_after_the_handshake(context: SSL.Context) -> None:
    """Session tickets would come right after it: there are none."""
    wire = Wire(ours(context), ours(context)).handshake()
    assert wire.carry() == (0, 0)
    for end in (wire.client, wire.server):
        with pytest.raises(ssl.SSLWantReadError):
            end.read(1000)
        assert end.version() == "TLSv1.3"
    assert wire.carry() == (0, 0)


def test_no_session_can_be_resumed(context: SSL.Context, python_context: ssl.SSLContext) -> None:
    """Not even by a client that keeps whatever it is given, which by default resumes."""
    first = Wire(python_context.wrap_bio, ours(context)).handshake()
    assert first.carry() == (0, 0)
    first.server.write(b"x")
    first.carry()
    assert first.client.read(1) == b"x"
    assert isinstance(first.client, ssl.SSLObject)
    session = first.client.session
    assert session is None or not session.has_ticket
    second = Wire(partial(python_context.wrap_bio, session=session), ours(context)).handshake()
    assert isinstance(second.client, ssl.SSLObject)
    assert not second.client.session_reused
    assert isinstance(second.server, TlsObject)
    assert second.server.verdict.certificate is not None


def test_we_resume_no_session_either(context: SSL.Context, tmp_path: Path) -> None:
    """Whatever tickets a server sends: each connection looks at its certificate anew."""
    files = write(tmp_path / "python", bake("both", "node-2"))
    python = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    python.load_cert_chain(files.cert, files.key)
    for _ in range(2):
        wire = Wire(ours(context), python.wrap_bio).handshake()
        assert wire.carry()[1] > 0, "tickets"
        wire.server.write(b"x")
        wire.carry()
        assert wire.client.read(1) == b"x"
        assert isinstance(wire.server, ssl.SSLObject)
        assert not wire.server.session_reused
        assert isinstance(wire.client, TlsObject)
        assert wire.client.verdict.certificate is not None


def test_an_alert_is_sent_before_the_error_is_raised(context: SSL.Context, tmp_path: Path) -> None:
    """Else the other side would learn only that the connection has ended."""
    files = write(tmp_path / "x", bake("other-authority", "node-2"), ca=signer("other").pem)
    wire = Wire(ours(tls_context(load_credentials(files))), ours(context))
    for end in (wire.client, wire.server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
        wire.carry()
    with pytest.raises(ssl.SSLWantReadError):
        wire.client.do_handshake()
    assert wire.carry()[0] > 0, "the alert"
    with pytest.raises(ssl.SSLError, match="is not signed by an authority in tls_ca_file"):
        wire.client.do_handshake()
    with pytest.raises(ssl.SSLError, match="it refuses this node's certificate"):
        wire.server.do_handshake()


def test_plaintext_is_named(context: SSL.Context) -> None:
    wire = Wire(ours(context), ours(context))
    wire.to_server.write(b"\0\0\0\x20\x01nefia")
    with pytest.raises(ssl.SSLError, match="does not speak TLS: what came is plaintext"):
        wire.server.do_handshake()


def test_an_old_client_is_named(context: SSL.Context, python_context: ssl.SSLContext) -> None:
    python_context.maximum_version = ssl.TLSVersion.TLSv1_2
    wire = Wire(python_context.wrap_bio, ours(context))
    with pytest.raises(ssl.SSLWantReadError):
        wire.client.do_handshake()
    wire.carry()
    with pytest.raises(ssl.SSLWantReadError):
        wire.server.do_handshake()
    with pytest.raises(ssl.SSLError, match=r"it speaks no TLS 1\.3"):
        wire.server.do_handshake()


@pytest.mark.parametrize("leaf", [True, False])
def test_a_certificate_that_the_library_cannot_read(
    context: SSL.Context, tmp_path: Path, leaf: bool
) -> None:
    """It is not a ValueError by itself, and comes from whoever can reach the port."""
    files = write(tmp_path / "odd", bake("both", "node-2"))
    good = files.cert.read_bytes()
    files.cert.write_bytes(spoiled(good) if leaf else good + spoiled(good))
    client = ssl.create_default_context(cafile=files.ca)
    client.check_hostname = False
    client.load_cert_chain(files.cert, files.key)
    wire = Wire(client.wrap_bio, ours(context))
    for end in (wire.client, wire.server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
        wire.carry()
    wire.client.do_handshake()
    wire.carry()
    with suppress(ssl.SSLError):
        wire.server.do_handshake()
    with pytest.raises(ssl.SSLError, match=r"cannot be understood \(InvalidVersion"):
        wire.server.do_handshake()


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("we_are_server", [True, False])
@pytest.mark.parametrize("alert", ["0100", "0228", "015a"])
def test_an_alert_in_place_of_a_handshake(
    context: SSL.Context, alert: str, we_are_server: bool, begun: bool
) -> None:
    """The first says that all is over: no error after a handshake, but one before it is done.

    It may come from whoever reaches the port, and must not end more than its connection.
    """
    wire = Wire(ours(context), ours(context))
    us, inbox = (wire.server, wire.to_server) if we_are_server else (wire.client, wire.to_client)
    assert isinstance(us, TlsObject)
    if begun:
        for end in (wire.client, us):
            with pytest.raises(ssl.SSLWantReadError):
                end.do_handshake()
            wire.carry()
    inbox.write(bytes.fromhex("1503030002" + alert))
    with suppress(ssl.SSLWantReadError), pytest.raises(ssl.SSLError):
        us.do_handshake()
    with pytest.raises(ssl.SSLError):
        us.do_handshake()
    assert us.verdict.certificate is None


async def test_a_cut_is_not_taken_for_an_end(context: SSL.Context) -> None:
    """Only the other side's own word, under its keys, is an end of the data."""
    near, far = await shaken(wrapped(context, *trio.testing.memory_stream_pair()))
    assert isinstance(near.transport_stream, trio.StapledStream)
    await near.transport_stream.send_eof()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await far.receive_some()
    assert str(caught.value.__cause__) == "closed by the other side"


@pytest.mark.parametrize("place", [0, 6, -1])
def test_changed_bytes_are_noticed(context: SSL.Context, place: int) -> None:
    wire = Wire(ours(context), ours(context)).handshake()
    wire.carry()
    wire.client.write(b"x" * 100)
    data = bytearray(wire.from_client.read())
    data[place] ^= 1
    wire.to_server.write(data)
    with pytest.raises(ssl.SSLWantReadError):  # with an alert to send
        wire.server.read(1000)
    with pytest.raises(ssl.SSLError, match="TLS has failed"):
        wire.server.read(1000)
