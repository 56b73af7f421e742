"""A network in memory on which data takes time, each connection in its own order."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from random import Random

import trio
from attrs import define, field

from tests.net.net_memory import PIPE_BYTES, MemoryNetwork, MemoryStream, _Pipe


@define(eq=False)
class _SlowPipe(_Pipe):
    """`arriving`: when how many of the bytes in `data` arrive that have not yet, oldest first."""

    arriving: deque[tuple[float, int]] = field(factory=deque)
    arrived_bytes: int = 0

    def send(self, data: bytes, when: float) -> None:
        if self.arriving:
            when = max(when, self.arriving[-1][0])
        self.data += data
        self.arriving.append((when, len(data)))
        self.wake()

    def take(self, max_bytes: int | None, now: float) -> bytes:
        while self.arriving and self.arriving[0][0] <= now:
            self.arrived_bytes += self.arriving.popleft()[1]
        taken = bytes(self.data[: min(self.arrived_bytes, max_bytes or self.arrived_bytes)])
        del self.data[: len(taken)]
        self.arrived_bytes -= len(taken)
        if taken:
            self.wake()
        return taken


@define(eq=False, kw_only=True)
class SlowStream(MemoryStream):
    """Who is cut off learns nothing, neither data nor that the other side has ended."""

    outgoing: _SlowPipe
    incoming: _SlowPipe
    latency: Callable[[], float]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = bytes(data)
        pipe = self.outgoing
        while rest:
            if self.closed:
                raise trio.ClosedResourceError("closed")
            if (pipe.broken or self.incoming.broken) and not self.incoming.stalled:
                raise trio.BrokenResourceError("reset")
            room = PIPE_BYTES - len(pipe.data)
            if room > 0:
                pipe.send(rest[:room], trio.current_time() + self.latency())
                rest = rest[room:]
            else:
                await pipe.changed.park()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self.incoming
        while True:
            if self.closed:
                raise trio.ClosedResourceError("closed")
            due = float("inf")
            if not pipe.stalled:
                if taken := pipe.take(max_bytes, trio.current_time()):
                    return taken
                if pipe.broken:
                    raise trio.BrokenResourceError("reset")
                if pipe.arriving:
                    due = pipe.arriving[0][0]
                elif pipe.ended:
                    return b""
            with trio.move_on_at(due):
                await pipe.changed.park()


class SlowNetwork(MemoryNetwork):
    """`delay_seconds` is the least that anything takes, `jitter_seconds` what comes on top."""

    def __init__(self, random: Random, delay_seconds: float, jitter_seconds: float) -> None:
        super().__init__()
        self.random = random
        self.delay_seconds = delay_seconds
        self.jitter_seconds = jitter_seconds

    def latency(self) -> float:
        return self.delay_seconds + self.jitter_seconds * self.random.random() ** 2

    def heal(self) -> None:
        self.streams = [s for s in self.streams if not (s[2].closed and s[3].closed)]
        super().heal()

    def reset(self, one: str, other: str) -> None:
        """All connections between two nodes break, as a firewall or NAT in between may do it."""
        for source, target, near, far in self.streams:
            if {source, target} == {one, other}:
                near.reset()
                far.reset()

    async def connect(self, source: str, address: str) -> MemoryStream:
        target = address.partition(":")[0]
        await trio.sleep(2 * self.latency())
        while {(source, target), (target, source)} & self.silent:
            await self._moved.park()
        listener = self.listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        there, back = _SlowPipe(self, source, target), _SlowPipe(self, target, source)
        near = SlowStream(outgoing=there, incoming=back, latency=self.latency)
        far = SlowStream(outgoing=back, incoming=there, latency=self.latency)
        self.streams.append((source, target, near, far))
        listener.send.send_nowait(far)
        return near
