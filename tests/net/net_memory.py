"""A network in memory: addresses are "<node>:<port>", and every fault is at the test's command."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import trio
from attrs import define, field
from trio.abc import Listener, Stream

PIPE_BYTES = 64 * 1024
"""What a connection holds in one direction before the writer has to wait, as a socket would."""


@define(eq=False)
class _Pipe:
    """One direction of a connection."""

    hub: MemoryNetwork
    source: str
    target: str
    data: bytearray = field(factory=bytearray)
    ended: bool = False
    broken: bool = False
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    @property
    def stalled(self) -> bool:
        return (self.source, self.target) in self.hub.silent

    def wake(self) -> None:
        self.changed.unpark_all()


@define(eq=False)
class MemoryStream(Stream):
    outgoing: _Pipe
    incoming: _Pipe
    closed: bool = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = bytes(data)
        pipe = self.outgoing
        while True:
            if self.closed:
                raise trio.ClosedResourceError("closed")
            if pipe.broken or self.incoming.broken:
                raise trio.BrokenResourceError("reset")
            room = PIPE_BYTES - len(pipe.data)
            if room > 0:
                pipe.data += rest[:room]
                rest = rest[room:]
                pipe.wake()
            if not rest:
                return
            await pipe.changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self.incoming
        while True:
            if self.closed:
                raise trio.ClosedResourceError("closed")
            if not pipe.stalled:
                if pipe.data:
                    taken = bytes(pipe.data[:max_bytes])
                    del pipe.data[: len(taken)]
                    pipe.wake()
                    return taken
                if pipe.broken:
                    raise trio.BrokenResourceError("reset")
                if pipe.ended:
                    return b""
            await pipe.changed.park()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self.closed = True
        self.outgoing.ended = True
        self.incoming.broken = True
        for pipe in (self.outgoing, self.incoming):
            pipe.wake()

    def reset(self) -> None:
        for pipe in (self.outgoing, self.incoming):
            pipe.broken = True
            pipe.wake()


@define(eq=False)
class MemoryListener(Listener[Stream]):
    hub: MemoryNetwork
    address: str
    send: trio.MemorySendChannel[MemoryStream]
    receive: trio.MemoryReceiveChannel[MemoryStream]

    async def accept(self) -> Stream:
        try:
            return await self.receive.receive()
        except trio.ClosedResourceError:
            # Killed: its process is told nothing and does nothing more.
            await trio.sleep_forever()
            raise AssertionError from None

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self.receive.close()
        if self.hub.listeners.get(self.address) is self:
            del self.hub.listeners[self.address]


class MemoryNetwork:
    """`silent`: pairs (from, to) between which nothing arrives; what is sent waits.

    `dials` counts the attempts (from, address).
    """

    def __init__(self) -> None:
        self.listeners: dict[str, MemoryListener] = {}
        self.silent: set[tuple[str, str]] = set()
        self.streams: list[tuple[str, str, MemoryStream, MemoryStream]] = []
        self.dials: list[tuple[str, str]] = []
        self.dial_seconds = 0.0005
        self._moved = trio.lowlevel.ParkingLot()

    def of(self, node: str) -> NodeNetwork:
        return NodeNetwork(self, node)

    def cut(self, one: str, other: str, both: bool = True) -> None:
        """Nothing arrives any more, and nobody is told."""
        self.silent |= {(one, other), (other, one)} if both else {(one, other)}

    def heal(self) -> None:
        self.silent.clear()
        for _, _, near, far in self.streams:
            for stream in (near, far):
                stream.incoming.wake()
        self._moved.unpark_all()

    def between(self, one: str, other: str) -> list[MemoryStream]:
        """The dialling ends of the open connections that `one` dialled to `other`."""
        return [
            near
            for source, target, near, far in self.streams
            if (source, target) == (one, other) and not near.closed and not far.closed
        ]

    def kill(self, node: str) -> None:
        """What the kernel does for a process that ends: its sockets close, its ports refuse."""
        for listener in [li for li in self.listeners.values() if li.address.startswith(f"{node}:")]:
            listener.close()
        for source, target, near, far in self.streams:
            if source == node:
                near.close()
            if target == node:
                far.close()

    async def connect(self, source: str, address: str) -> MemoryStream:
        target = address.partition(":")[0]
        self.dials.append((source, address))
        await trio.sleep(self.dial_seconds)
        while {(source, target), (target, source)} & self.silent:
            await self._moved.park()
        listener = self.listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        there, back = _Pipe(self, source, target), _Pipe(self, target, source)
        near, far = MemoryStream(there, back), MemoryStream(back, there)
        self.streams.append((source, target, near, far))
        await listener.send.send(far)
        return near


@define
class NodeNetwork:
    """The `Network` of one node."""

    hub: MemoryNetwork
    node: str

    async def dial(self, address: str) -> Stream:
        if address.startswith("nowhere:"):
            raise OSError(errno.EHOSTUNREACH, "no route to host")
        return await self.hub.connect(self.node, address)

    async def listen(self, bind_addr: str) -> Sequence[Listener[Stream]]:
        send, receive = trio.open_memory_channel[MemoryStream](1000)
        listener = MemoryListener(self.hub, bind_addr, send, receive)
        self.hub.listeners[bind_addr] = listener
        return [listener]
