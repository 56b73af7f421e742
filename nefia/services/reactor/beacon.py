"""One connected beacon: its messages in, an answer for each out, and whether it is still there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import ProtocolError

from nefia.clock import NodeClock, sleep
from nefia.services.reactor.events import SERVICE_RESTART
from nefia.services.reactor.pace import Pace

MAX_IN_FLIGHT = 16
"""Events of one connection that are being committed. Beyond it we do not read on."""
PING_SECONDS = 5.0
PONG_SECONDS = 5.0
"""How long a beacon may take to answer a ping."""
SEND_SECONDS = 5.0
"""How long it may take to read an answer."""
DRAIN_SECONDS = 0.1
"""At the end of leadership: how long events in flight have to be answered."""
CLOSE_SECONDS = 1.0
"""How long a beacon has to answer a close."""

BROKEN = (
    ConnectionClosed,
    ProtocolError,
    OSError,
    trio.BrokenResourceError,
    trio.BusyResourceError,
    trio.ClosedResourceError,
)
"""All that the other end, or a fence, can do to a connection."""

Answer = Callable[[str | bytes], Awaitable[str]]


class Beacon:
    """`answer` gives the answer to a message, and raises nothing."""

    def __init__(
        self, socket: WebSocketConnection, clock: NodeClock, pace: Pace, answer: Answer
    ) -> None:
        self._socket = socket
        self._clock = clock
        self._pace = pace
        self._answer = answer
        self._room = trio.Semaphore(MAX_IN_FLIGHT)
        self._is_held = False
        """Whether we do not read, by our own choice: a pong may be waiting then."""
        self._reading = trio.CancelScope()
        self._serving = trio.CancelScope()

    async def serve(self) -> None:
        """Until either side ends the connection."""
        with self._serving:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ping)
                try:
                    with self._reading:
                        await self._read(nursery)
                    await trio.sleep_forever()  # `leave` ends it
                except ConnectionClosed:
                    nursery.cancel_scope.cancel()

    async def leave(self, reason: str) -> None:
        """Take no more events, answer those in flight if that is soon, and close with 1012."""
        self._reading.cancel()
        with self._until(DRAIN_SECONDS):
            for _ in range(MAX_IN_FLIGHT):
                await self._room.acquire()
        with self._until(CLOSE_SECONDS), suppress(*BROKEN):
            await self._socket.aclose(SERVICE_RESTART, reason)
        self._serving.cancel()

    async def _read(self, nursery: trio.Nursery) -> None:
        while True:
            message = await self._socket.get_message()
            self._is_held = True
            await self._clock.sleep_until(self._pace.turn(self._clock.now()))
            await self._room.acquire()
            self._is_held = False
            nursery.start_soon(self._reply, message)

    async def _reply(self, message: str | bytes) -> None:
        text = await self._answer(message)
        # A beacon that has gone sends the event again, and gets its answer then.
        with self._until(SEND_SECONDS) as sending, suppress(ConnectionClosed):
            await self._socket.send_message(text)
        if sending.cancelled_caught:
            self._serving.cancel()
        self._room.release()

    async def _ping(self) -> None:
        while True:
            await sleep(self._clock, PING_SECONDS)
            pong = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_pong, pong)
                while not pong.is_set():
                    with self._until(PONG_SECONDS):
                        await pong.wait()
                    if not pong.is_set() and not self._is_held:
                        self._serving.cancel()
                        break

    async def _await_pong(self, pong: trio.Event) -> None:
        with suppress(ConnectionClosed):  # the reader learns it too
            await self._socket.ping()
        pong.set()

    def _until(self, seconds: float) -> trio.CancelScope:
        return self._clock.deadline_scope(self._clock.now() + seconds)
