"""The listener itself: hypercorn's protocol over our own sockets, with bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app
from trio.abc import Listener, Stream

from nefia.errors import InvalidConfiguration
from nefia.http.app import make_app
from nefia.http.metrics import Meters
from nefia.http.source import Answer, Source
from nefia.net.network import TcpNetwork

MAX_CONNECTIONS = 64
MAX_HEADER_BYTES = 16 << 10
MAX_BODY_BYTES = 0
IDLE_SECONDS = 15.0
"""A connection on which nothing is asked for so long is closed."""
STALLED_SECONDS = 10.0
"""So is one whose client does not take what it has asked for: the kernel does that."""

_log = structlog.get_logger("nefia.http")


class HttpListener:
    """`run` it in a nursery. `answer` performs admin requests, as a line for a line.

    No client, and no mistake in an answer to one, ends more than its own connection.
    """

    def __init__(self, address: str, answer: Answer) -> None:
        self.meters = Meters()
        self._address = address
        self._config = Config()
        self._config.loglevel = "WARNING"
        self._config.include_server_header = False
        self._config.h11_max_incomplete_size = MAX_HEADER_BYTES
        self._config.keep_alive_timeout = IDLE_SECONDS
        self._config.read_timeout = int(IDLE_SECONDS)
        app = make_app(Source(answer), self.meters)
        self._app = wrap_app(cast(Any, app), MAX_BODY_BYTES, "asgi")
        self._context = WorkerContext(None)
        self._streams: set[trio.SocketStream] = set()

    async def run(
        self,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled. Raises InvalidConfiguration where it cannot listen."""
        listeners = await self._listen()
        _log.info("http_ready", listen=self._address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.meters.watch_loop)
            task_status.started()
            try:
                await trio.serve_listeners(self._serve, [*listeners], handler_nursery=nursery)
            finally:
                # A client that does not read must not delay the daemon's end: hypercorn shields
                # what it sends.
                for stream in self._streams:
                    stream.socket.close()

    async def _listen(self) -> Sequence[Listener[Stream]]:
        try:
            return await TcpNetwork(STALLED_SECONDS).listen(self._address)
        except OSError as error:
            raise InvalidConfiguration(
                f"cannot listen on http.listen {self._address}: {error.strerror}",
                hint="is another program listening there, or is the address another machine's?",
            ) from error

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._streams) >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self._streams.add(stream)
        try:
            state = ConnectionState(LifespanState())
            # It is written for TLS, and tells by an AttributeError that there is none.
            tls = cast("trio.SSLStream[trio.SocketStream]", stream)
            await _Connection(self._app, self._config, self._context, state, tls)
        except Exception:
            _log.exception("http_connection_failed")
        finally:
            self._streams.discard(stream)


class _Connection(TCPServer):
    async def _read_data(self) -> None:
        """Else the timer keeps the place of a client that has left without a request."""
        await super()._read_data()
        await self.idle_task.stop()
