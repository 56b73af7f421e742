"""One connection: frames read in batches, frames written together, ends told apart.

Whatever ends a connection, our own closing included, is a `Cut` with a sentence that says how; what
a peer must not send is a `Malformed`. Both are the world's faults and are caught where the
connection is owned; everything else that comes out of a connection's tasks is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.abc import Stream

from nefia.clock import NodeClock
from nefia.net.frames import FRAME_OVERHEAD_BYTES, Frame, FrameReader, Kind, header
from nefia.streams import receive, send_now
from nefia.wire import Malformed

RECEIVE_BYTES = 64 * 1024
MAX_QUEUE_BYTES = 16 * 1024 * 1024
MAX_QUEUE_FRAMES = 4096


class Cut(Exception):
    """The connection has ended."""


class Channel:
    """Frames over a stream. One task reads; either one task runs `write_loop`, or one sends.

    `heard_at` is when bytes last came in, on the clock's time.
    """

    def __init__(self, stream: Stream, clock: NodeClock, max_frame_bytes: int) -> None:
        self.heard_at = clock.now()
        self._stream = stream
        self._clock = clock
        self._reader = FrameReader(max_frame_bytes)
        self._queue: list[bytes] = []
        """Headers and bodies in turn, so that a body is not copied before it is written."""
        self._queue_bytes = 0
        self._posted = trio.Event()
        self._written = trio.Event()
        self._writing = False

    def set_limit(self, max_frame_bytes: int) -> None:
        """For the frames that have not been received yet."""
        self._reader.max_frame_bytes = max_frame_bytes

    async def receive(self) -> list[Frame]:
        """All frames that have arrived; waits for the first. Raises `Cut` and `Malformed`."""
        frames = [await self.receive_one()]
        while (frame := self._reader.next()) is not None:
            frames.append(frame)
        return frames

    async def receive_one(self) -> Frame:
        while (frame := self._reader.next()) is None:
            try:
                data = await receive(self._stream, RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Cut(_why(error)) from error
            if not data:
                raise Cut("closed by the other side")
            self.heard_at = self._clock.now()
            self._reader.feed(data)
        return frame

    async def send(self, kind: Kind, body: bytes) -> None:
        await self._send_all(header(kind, body) + body)

    def post(self, kind: Kind, body: bytes = b"") -> bool:
        """Send this, at once or by `write_loop`. False, and it is dropped, if too much waits."""
        size_bytes = FRAME_OVERHEAD_BYTES + len(body)
        if (
            self._queue_bytes + size_bytes > MAX_QUEUE_BYTES
            or len(self._queue) >= 2 * MAX_QUEUE_FRAMES
        ):
            return False
        frame = (header(kind, body), body)
        if not (self._queue or self._writing):
            sent_bytes = send_now(self._stream, frame)
            if sent_bytes == size_bytes:
                return True
            if sent_bytes:
                frame = (b"".join(frame)[sent_bytes:], b"")
        self._queue += frame
        self._queue_bytes += size_bytes
        self._posted.set()
        return True

    async def write_loop(self) -> None:
        """Send what is posted, all that has gathered at a time. Raises `Cut`."""
        while True:
            await self._posted.wait()
            self._posted = trio.Event()
            data = b"".join(self._queue)
            self._queue = []
            self._queue_bytes = 0
            self._writing = True
            await self._send_all(data)
            self._writing = False
            self._written.set()
            self._written = trio.Event()

    async def flush(self) -> None:
        """Return when all that was posted has been handed to the stream, or the channel closed."""
        while self._queue or self._writing:
            await self._written.wait()

    async def close(self) -> None:
        """At once: nothing that is queued is sent."""
        self._queue = []
        self._writing = False
        self._written.set()
        await trio.aclose_forcefully(self._stream)

    async def _send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Cut(_why(error)) from error


def _why(error: Exception) -> str:
    """trio's own text says only that something broke; its cause says what."""
    return str(error.__cause__ or error) or "broken"


async def run_until_cut(*parts: Callable[[], Awaitable[None]]) -> Cut | Malformed:
    """Run the tasks of one connection until the first is cut; cancel the others; return why."""
    ends: list[Cut | Malformed] = []

    async def run(part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except (Cut, Malformed) as end:
            ends.append(end)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for part in parts:
            nursery.start_soon(run, part)
    return ends[0]
