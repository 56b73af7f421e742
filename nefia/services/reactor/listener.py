"""Takes connections of beacons: how many, who may come in, and how all of them are sent away."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import structlog
import trio
from trio.abc import Listener as StreamListener
from trio.abc import Stream
from trio_websocket import WebSocketConnection, wrap_server_stream

from nefia.clock import NodeClock
from nefia.config.services import ReactorConfig
from nefia.errors import Permission
from nefia.services.reactor.beacon import BROKEN, Answer, Beacon
from nefia.services.reactor.events import MAX_EVENT_BYTES, refused
from nefia.services.reactor.gate import Gate
from nefia.services.reactor.pace import Pace

MAX_PENDING_HANDSHAKES = 64
"""Connections that have not introduced themselves. One more ends the oldest of them, since to
refuse the newest would let 64 silent strangers keep everybody out."""
HANDSHAKE_SECONDS = 10.0
MAX_MESSAGE_CHARACTERS = 4 * MAX_EVENT_BYTES
"""What is longer than an event may be gets an error; what is longer than this ends with 1009."""
REPEAT_SECONDS = 60.0
MAX_REPORTS = 64
"""In `REPEAT_SECONDS`: whoever keeps coming shall not fill the log."""

_log = structlog.get_logger()


class Listener:
    """`sockets` listen. `config` and `gate` may be replaced at a reload, for who comes after it."""

    def __init__(
        self,
        config: ReactorConfig,
        gate: Gate,
        clock: NodeClock,
        answer: Answer,
        sockets: Sequence[StreamListener[Stream]] = (),
    ) -> None:
        self.config = config
        self.gate = gate
        self._clock = clock
        self._answer = answer
        self._sockets = sockets
        self._streams: set[Stream] = set()
        self._pending: deque[trio.CancelScope] = deque()
        self._beacons: set[Beacon] = set()
        self._connected: Counter[str] = Counter()
        """By IP address."""
        self._farewell: str | None = None
        self._reported: dict[str, float] = {}

    @property
    def connections(self) -> int:
        return len(self._beacons)

    async def run(self) -> None:
        """Until cancelled. Raises OSError or trio.ClosedResourceError where accepting ends."""
        await trio.serve_listeners(self.handle, list(self._sockets))

    async def leave(self, reason: str) -> None:
        """Close all connections with 1012, and from now on each that is made."""
        self._farewell = reason
        async with trio.open_nursery() as nursery:
            for beacon in self._beacons:
                nursery.start_soon(beacon.leave, reason)

    def fence(self) -> None:
        """Close every socket now. What the kernel has taken already may still go out."""
        for each in self._sockets:
            if isinstance(each, trio.SocketListener):
                each.socket.close()
        for stream in self._streams:
            if isinstance(stream, trio.SocketStream):
                stream.socket.close()

    async def handle(self, stream: Stream) -> None:
        """One connection from its beginning to its end. No fault of the other side escapes."""
        address = _address_of(stream)
        if why := self._why_no_room(address):
            self._report("beacon_turned_away", address, why)
            await trio.aclose_forcefully(stream)
            return
        self._streams.add(stream)
        self._connected[address] += 1
        try:
            await self._serve(self.gate.wrapped(stream), address)
        except* BROKEN as group:
            self._report("beacon_lost", address, repr(_first_of(group)))
        finally:
            self._streams.discard(stream)
            self._connected[address] -= 1
            if not self._connected[address]:
                del self._connected[address]
            await trio.aclose_forcefully(stream)

    def _why_no_room(self, address: str) -> str | None:
        if self._connected.total() >= self.config.max_connections:
            return "max_connections are connected"
        if self._connected[address] >= self.config.max_connections_per_address:
            return "max_connections_per_address are connected from there"
        return None

    async def _serve(self, stream: Stream, address: str) -> None:
        async with trio.open_nursery() as nursery:
            socket = await self._admit(nursery, stream, address)
            if socket is not None:
                pace = Pace(self.config.events_per_second, self._clock.now())
                beacon = Beacon(socket, self._clock, pace, self._answer)
                self._beacons.add(beacon)
                try:
                    if self._farewell is not None:
                        await beacon.leave(self._farewell)
                    await beacon.serve()
                finally:
                    self._beacons.discard(beacon)
            nursery.cancel_scope.cancel()

    async def _admit(
        self, nursery: trio.Nursery, stream: Stream, address: str
    ) -> WebSocketConnection | None:
        """The connection after its handshake, or None if it did not come to one."""
        if len(self._pending) >= MAX_PENDING_HANDSHAKES:
            self._pending.popleft().cancel()
        with self._clock.deadline_scope(self._clock.now() + HANDSHAKE_SECONDS) as handshake:
            self._pending.append(handshake)
            try:
                if isinstance(stream, trio.SSLStream):
                    await stream.do_handshake()
                request = await wrap_server_stream(
                    nursery, stream, max_message_size=MAX_MESSAGE_CHARACTERS
                )
                if self.gate.admits(request.headers):
                    return await request.accept()
                self._report("beacon_refused", address, "it has not the right token")
                error = Permission("the token is missing or not the right one")
                await request.reject(401, body=refused(None, error).encode())
                return None
            finally:
                if handshake in self._pending:
                    self._pending.remove(handshake)
        self._report("beacon_lost", address, "it did not finish the handshake in time")
        return None

    def _report(self, event: str, address: str, reason: str) -> None:
        """The same reason is news only once in a while."""
        now = self._clock.now()
        self._reported = {r: t for r, t in self._reported.items() if now - t < REPEAT_SECONDS}
        if reason not in self._reported and len(self._reported) < MAX_REPORTS:
            self._reported[reason] = now
            _log.warning(event, address=address, reason=reason)


def _address_of(stream: Stream) -> str:
    """The IP address at the other end; "" for what is no socket."""
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
