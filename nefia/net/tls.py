"""TLS between nodes: a `Network` whose streams are those of another one, wrapped (SPEC 7).

TLS 1.3 only, certificates on both sides, no tickets and no resumption. Who the other side is,
beyond being certified at all, is for the handshake of the mesh: see `network.certified_ids`.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Sequence
from typing import cast
from weakref import WeakSet

import trio
from trio.abc import Listener, Stream

from nefia.credentials import Credentials, path_to_authority
from nefia.errors import TLSFailed
from nefia.net.network import Network, tls_failure
from nefia.net.tls_object import TlsObject, judge
from nefia.openssl import SSL, crypto


def tls_context(credentials: Credentials) -> SSL.Context:
    """For both sides of connections. Raises TLSFailed for keys that OpenSSL finds too weak."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    # The number of tickets is 0 by `openssl.cnf`; these keep anything from being resumed as well.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, judge)
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    try:
        for authority in credentials.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        context.use_certificate(credentials.certificate)
        for certificate in credentials.chain:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(credentials.key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error) as error:
        reasons = ", ".join(reason for *_, reason in error.args[0])
        raise TLSFailed(f"OpenSSL refuses the certificates of this node: {reasons}") from error
    return context


class TlsStream(Stream):
    """A `trio.SSLStream`, and what its other end has proved."""

    def __init__(self, transport: Stream, context: SSL.Context, *, server_side: bool) -> None:
        self.transport_stream = transport
        self._tls = TlsObject(context)
        self._stream = trio.SSLStream(
            transport, cast(ssl.SSLContext, self._tls), server_side=server_side
        )

    @property
    def node_ids(self) -> frozenset[str]:
        """The node ids that the other side's certificate names; empty if it names none."""
        certificate = self._tls.verdict.certificate
        assert certificate is not None, "asked before the handshake"
        return certificate.node_ids

    def is_trusted(self, store: crypto.X509Store) -> bool:
        """Whether the other side's certificate leads to an authority in `store`."""
        certificate, *chain = self._tls.verdict.chain
        try:
            path_to_authority(certificate, chain, store)
        except crypto.X509StoreContextError:
            return False
        return True

    @property
    def is_up(self) -> bool:
        return bool(self._tls.verdict.chain)

    async def do_handshake(self) -> None:
        """Raises trio.BrokenResourceError, whose cause says why."""
        await self._stream.do_handshake()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


class TlsNetwork:
    """`inner` makes the connections; `context` (of `tls_context`) may be replaced at any time."""

    def __init__(self, inner: Network, context: SSL.Context) -> None:
        self._inner = inner
        self._context = context
        self._streams: WeakSet[TlsStream] = WeakSet()

    async def dial(self, address: str) -> Stream:
        """As `Network.dial`, and the TLS handshake. Raises TLSFailed if that is refused here."""
        stream = self._wrap(await self._inner.dial(address), server_side=False)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            if why := tls_failure(error):
                raise TLSFailed(f"{address}: {why}") from error
            raise OSError(
                errno.ECONNRESET, "it ended the connection before TLS began; does it speak TLS?"
            ) from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def listen(self, bind_addr: str) -> Sequence[Listener[Stream]]:
        return [_TlsListener(self, inner) for inner in await self._inner.listen(bind_addr)]

    def accepted(self, stream: Stream) -> Stream:
        """TLS over a connection from another node; its handshake is made by the first read."""
        return self._wrap(stream, server_side=True)

    def _wrap(self, transport: Stream, *, server_side: bool) -> TlsStream:
        stream = TlsStream(transport, self._context, server_side=server_side)
        self._streams.add(stream)
        return stream

    async def replace(self, context: SSL.Context, store: crypto.X509Store) -> int:
        """Use `context` from now on, and cut whoever is no longer trusted; returns how many.

        Connections that are still trusted go on under what they began with.
        """
        self._context = context
        cut = [s for s in self._streams if s.is_up and not s.is_trusted(store)]
        for stream in cut:
            await trio.aclose_forcefully(stream)
        return len(cut)


class _TlsListener(Listener[Stream]):
    def __init__(self, network: TlsNetwork, inner: Listener[Stream]) -> None:
        self._network = network
        self._inner = inner

    async def accept(self) -> Stream:
        return self._network.accepted(await self._inner.accept())

    async def aclose(self) -> None:
        await self._inner.aclose()
