"""Who may come in: TLS and tokens, as the files had them when they were last read."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from ssl import SSLContext

import trio
from attrs import field, frozen
from trio.abc import Stream

from nefia.config.reactor_files import read_tokens, server_context
from nefia.config.services import ReactorConfig

AUTHORIZATION = b"authorization"
BEARER = b"Bearer "


@frozen
class Gate:
    """Without tokens everybody may send; without a context there is no TLS."""

    tokens: tuple[bytes, ...] = field(default=(), repr=False)
    context: SSLContext | None = None

    def wrapped(self, stream: Stream) -> Stream:
        if self.context is None:
            return stream
        return trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether there is a token among the headers of a handshake (RFC 6750, 2.1)."""
        if not self.tokens:
            return True
        given = next((value for name, value in headers if name.lower() == AUTHORIZATION), b"")
        # All are compared, each in constant time, so that time tells nothing of any of them.
        equal = [hmac.compare_digest(given, BEARER + token) for token in self.tokens]
        return any(equal)


async def open_gate(config: ReactorConfig) -> Gate:
    """Reads the files. Raises InvalidConfiguration and TLSFailed, which name them."""
    if config.token_file is None and config.tls_cert_file is None:
        return Gate()
    # A disk that hangs must not stop the loop, and with it the lease.
    return await trio.to_thread.run_sync(_read, config, abandon_on_cancel=True)


def _read(config: ReactorConfig) -> Gate:
    tokens = () if config.token_file is None else read_tokens(config.token_file)
    return Gate(tokens, server_context(config))
