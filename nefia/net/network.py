"""Where streams come from: the one seam between the mesh and the world.

`TcpNetwork` is the real one; simulations bring their own, and `tls.TlsNetwork` wraps the streams of
another. Nothing else in this package asks what kind of stream it has.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from typing import Protocol

import trio
from trio.abc import Listener, Stream

from nefia.config.kinds import parse_address

KEEPALIVE_PROBES = 3
LISTEN_BACKLOG_CONNECTIONS = 128


class Network(Protocol):
    async def dial(self, address: str) -> Stream:
        """A new connection to `address` (`host:port`).

        Raises ConnectionRefusedError if the host answers and nothing listens there, another
        OSError, whose text says why, if it cannot be reached or understood, and TLSFailed, which
        names `address`, if one side does not accept the other's certificate. Waits without end.
        """
        ...

    async def listen(self, bind_addr: str) -> Sequence[Listener[Stream]]:
        """Raises OSError whose text names `bind_addr`."""
        ...


class TcpNetwork:
    """Names are resolved at each dial. Dead connections are noticed in `transport_timeout`."""

    def __init__(self, transport_timeout_seconds: float) -> None:
        self._timeout_seconds = transport_timeout_seconds

    async def dial(self, address: str) -> Stream:
        host, port = _split(address)
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            raise _clearest(error) from error
        except UnicodeError as error:
            raise OSError(errno.EINVAL, f"{host!r} is not a host name") from error
        self._set_options(stream.socket)
        return stream

    async def listen(self, bind_addr: str) -> Sequence[Listener[Stream]]:
        host, port = _split(bind_addr)
        try:
            listeners = await trio.open_tcp_listeners(
                port, host=host, backlog=LISTEN_BACKLOG_CONNECTIONS
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot listen on {bind_addr}: {reason}") from error
        for listener in listeners:
            # Linux hands these options on to every connection that is accepted.
            self._set_options(listener.socket)
        return listeners

    def _set_options(self, sock: trio.socket.SocketType) -> None:
        """TCP_NODELAY is set by trio; the rest makes the kernel notice a peer that vanished."""
        probe_seconds = max(1, round(self._timeout_seconds / (KEEPALIVE_PROBES + 1)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, probe_seconds),
            (socket.TCP_KEEPINTVL, probe_seconds),
            (socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
            (socket.TCP_USER_TIMEOUT, round(self._timeout_seconds * 1000)),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def remote_name(stream: Stream) -> str:
    """Who is at the other end, for people; "unknown" for what is not TCP underneath."""
    inner = getattr(stream, "transport_stream", stream)
    if not isinstance(inner, trio.SocketStream):
        return "unknown"
    try:
        host, port = inner.socket.getpeername()[:2]
    except OSError:
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def certified_ids(stream: Stream) -> frozenset[str]:
    """The node ids that the other end has proved to be its own; empty if it was not asked to."""
    ids: frozenset[str] = getattr(stream, "node_ids", frozenset())
    return ids


def tls_failure(error: BaseException) -> str | None:
    """The sentence of the TLS error that `error` comes from, if it is one and not a mere end."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            ended = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            return None if ended else str(cause)
        cause = cause.__cause__
    return None


def _split(address: str) -> tuple[str, int]:
    try:
        return parse_address(address)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from error


def _clearest(error: OSError) -> OSError:
    """Of the errors of all addresses that a name has: refused if all refused, else the first other.

    trio gathers them in a group as the cause; a name that does not resolve comes as it is.
    """
    group = error.__cause__
    causes = group.exceptions if isinstance(group, BaseExceptionGroup) else (error,)
    others = [cause for cause in causes if not isinstance(cause, ConnectionRefusedError)]
    if not others:
        return ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
    # trio's comment on a lone cause adds nothing; a name that does not resolve is its own cause.
    return next((cause for cause in others if isinstance(cause, OSError)), error)
