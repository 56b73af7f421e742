"""Sends one event to the Reactor of whichever node leads: what `nefia event send` does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import trio
from attrs import define, field
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from nefia.clock import NodeClock, sleep
from nefia.errors import NefiaError, NoLeader, OutcomeUnknown, Permission
from nefia.net.network import TcpNetwork
from nefia.services.reactor.events import MAX_EVENT_BYTES, SEND_AGAIN, SERVICE_RESTART

CONNECT_SECONDS = 2.0
ROUND_SECONDS = 0.1
"""The pause after all nodes have been tried."""
MAX_ANSWER_CHARACTERS = MAX_EVENT_BYTES
UNAUTHORIZED = 401
PORTS = {"ws": 80, "wss": 443}


@asynccontextmanager
async def open_beacon(
    url: str, clock: NodeClock, *, token: str = "", context: SSLContext | None = None
) -> AsyncIterator[WebSocketConnection]:
    """A connection to the Reactor at `url`; its socket is closed at the end, in whatever state.

    trio-websocket's own way to open one leaves the socket to the garbage collector when the other
    side ends it, and says less of why. Raises OSError, trio.BrokenResourceError for TLS, and
    ConnectionRejected; after that ConnectionClosed.
    """
    parts = urlsplit(url)
    port = parts.port or PORTS[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    headers = [(b"Authorization", b"Bearer " + token.encode())] if token else []
    plain: trio.abc.Stream | None = None
    try:
        async with trio.open_nursery() as nursery:
            with clock.deadline_scope(clock.now() + CONNECT_SECONDS) as connecting:
                plain = stream = await TcpNetwork(CONNECT_SECONDS).dial(f"{host}:{port}")
                if parts.scheme == "wss":
                    assert context is not None, url
                    stream = tls = trio.SSLStream(
                        plain, context, server_hostname=parts.hostname, https_compatible=True
                    )
                    await tls.do_handshake()
                socket = await wrap_client_stream(
                    nursery,
                    cast(trio.SocketStream, stream),
                    f"{host}:{port}",
                    parts.path or "/",
                    extra_headers=headers,
                    max_message_size=MAX_ANSWER_CHARACTERS,
                )
            if connecting.cancelled_caught:
                raise TimeoutError(f"it has not answered within {CONNECT_SECONDS:g} s")
            yield socket
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        first = _first_of(group)
        raise first from first.__cause__
    finally:
        if plain is not None:
            await trio.aclose_forcefully(plain)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first that is no mere cancellation."""
    _, others = group.split(trio.Cancelled)
    first: BaseException = others or group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


class _Elsewhere(Exception):
    """There is no acknowledgement to be had here, now; the text says why."""


@define
class Sender:
    """Where the Reactors of all nodes are. `is_sent`: one may have got the event unheard."""

    urls: Sequence[str]
    clock: NodeClock
    token: str = field(default="", repr=False)
    context: SSLContext | None = None
    is_sent: bool = False
    why: str = "none was tried"

    async def send(self, event: bytes, timeout_seconds: float) -> str:
        """The URL that has acknowledged the event.

        Raises what a Reactor found wrong with it, Permission, and when the time is up NoLeader, or
        OutcomeUnknown if one may have taken it.
        """
        with self.clock.deadline_scope(self.clock.now() + timeout_seconds):
            while True:
                for url in self.urls:
                    try:
                        await self._send_to(url, event.decode())
                        return url
                    except _Elsewhere as elsewhere:
                        self.why = f"{url}: {elsewhere}"
                await sleep(self.clock, ROUND_SECONDS)
        raise self._unheard()

    def _unheard(self) -> NefiaError:
        if self.is_sent:
            return OutcomeUnknown(
                f"no Reactor has acknowledged the event in time ({self.why})", hint=SEND_AGAIN
            )
        return NoLeader(
            f"no Reactor takes events ({self.why})",
            hint="see `nefia cluster status` for who leads, and whether its Reactor runs",
        )

    async def _send_to(self, url: str, event: str) -> None:
        """Raises _Elsewhere, and NefiaError for what another node would find too."""
        try:
            async with open_beacon(
                url, self.clock, token=self.token, context=self.context
            ) as socket:
                self.is_sent = True
                await socket.send_message(event)
                answer = msgspec.json.decode(await socket.get_message())
        except ConnectionRejected as rejected:
            if rejected.status_code == UNAUTHORIZED:
                raise Permission(
                    f"the Reactor at {url} does not accept the token",
                    hint="name the file with the right one by --token-file",
                ) from None
            raise _Elsewhere(f"it answers with the status {rejected.status_code}") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise _Elsewhere(f"cannot be reached: {_cause(error)}") from None
        except ConnectionClosed as closed:
            raise _Elsewhere(_why_closed(closed)) from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise _Elsewhere("its answer is no JSON") from None
        self._judge(answer)

    def _judge(self, answer: Any) -> None:
        match answer:
            case {"ack": str()}:
                return
            case {"error": {"code": str(), "message": str(why), "again": bool(again)}}:
                if again:
                    raise _Elsewhere(why)
                raise NefiaError.from_json(answer["error"] | {"changed": False})
        raise _Elsewhere("its answer is not one of a Reactor")


def _cause(error: BaseException) -> str:
    """trio's errors of broken streams say nothing themselves."""
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    return str(cause or error)


def _why_closed(closed: ConnectionClosed) -> str:
    reason = closed.reason
    if reason is not None and reason.code == SERVICE_RESTART:
        return f"it does not lead any more: {reason.reason}"
    return "the connection has ended"
