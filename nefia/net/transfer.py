"""A snapshot on its way to another node, on a connection of its own (dissertation 5.3, SPEC 7).

The connection is made for it and ends with it, so that no heartbeat ever waits behind a snapshot.
The leader offers; the follower answers how much of it is staged already, from where the leader goes
on. Data follow in blocks, each acknowledged when it is staged, with so many on their way at most
that a follower that stands still is noticed. At the end the follower makes ready to install, and
says so. Nothing here looks into the data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio
from attrs import frozen

from nefia.clock import sleep
from nefia.errors import BY_CODE, NefiaError, PeerUnreachable
from nefia.net.channel import Channel, Cut
from nefia.net.dialling import hello_to, reach
from nefia.net.frames import Frame, Kind
from nefia.net.handshake import SNAPSHOT, Refusal
from nefia.net.interface import Inlet, PeerTarget, Setting
from nefia.wire import Codec, Malformed

BLOCK_BYTES = 256 * 1024
WINDOW_BYTES = 4 * 1024 * 1024
"""Not acknowledged yet, at most."""

Read: TypeAlias = Callable[[int, int], Awaitable[bytes]]
"""(offset, size in bytes) to data."""


@frozen
class _Progress:
    """`staged_bytes` of the data have arrived; `ready`: the snapshot can be installed."""

    staged_bytes: int
    ready: bool = False


_ANSWERS: Codec[_Progress | Refusal] = Codec({1: _Progress, 2: Refusal})


class _End:
    """Reading and writing frames within the transport timeout. Raises `Cut`."""

    def __init__(self, channel: Channel, setting: Setting) -> None:
        self._channel = channel
        self._clock = setting.clock
        self._timeout_seconds = setting.transport_timeout_seconds

    async def say(self, kind: Kind, body: bytes = b"") -> None:
        with self._clock.deadline_scope(self._clock.now() + self._timeout_seconds) as scope:
            await self._channel.send(kind, body)
        if scope.cancelled_caught:
            raise Cut(f"the other side has taken nothing for {self._timeout_seconds:g} s")

    async def hear(self, *, alive: bool = False) -> Frame:
        """The next frame but pongs; with `alive`, a pong says that it may take longer."""
        deadline = self._clock.now() + self._timeout_seconds
        while True:
            with self._clock.deadline_scope(deadline) as scope:
                frame = await self._channel.receive_one()
                if frame.kind is not Kind.PONG:
                    return frame
                if alive:
                    deadline = self._clock.now() + self._timeout_seconds
            if scope.cancelled_caught:
                raise Cut(f"the other side stands still for {self._timeout_seconds:g} s")


# The leader's side.


async def send_snapshot(
    setting: Setting, peer: str, target: PeerTarget, offer: bytes, total_bytes: int, read: Read
) -> None:
    """Bring the data to `peer`; when this returns they are safe there and ready to be installed.

    Raises as `reach` does, PeerUnreachable where the connection ended or stood still (what has
    arrived stays there for the next attempt), the error with which `peer` refused it, and what
    `read` raises.
    """
    hello = hello_to(setting.local(), SNAPSHOT, peer, target.instance)
    deadline = setting.clock.now() + setting.attempt_seconds
    channel, _ = await reach(setting, target.address, hello, deadline)
    try:
        await _send(_End(channel, setting), offer, total_bytes, read)
    except (Cut, Malformed) as end:
        raise PeerUnreachable(f"{peer} did not get the snapshot: {end}") from end
    finally:
        await channel.close()


async def _send(end: _End, offer: bytes, total_bytes: int, read: Read) -> None:
    await end.say(Kind.REQUEST, offer)
    progress = await _progress(end, alive=True)
    sent_bytes = progress.staged_bytes
    while not progress.ready:
        while sent_bytes < min(total_bytes, progress.staged_bytes + WINDOW_BYTES):
            block = await read(sent_bytes, min(BLOCK_BYTES, total_bytes - sent_bytes))
            if not block:
                raise Cut("the data end before they should")
            await end.say(Kind.DATA, block)
            sent_bytes += len(block)
        progress = await _progress(end, alive=progress.staged_bytes >= total_bytes)


async def _progress(end: _End, *, alive: bool) -> _Progress:
    frame = await end.hear(alive=alive)
    if frame.kind is not Kind.ANSWER:
        raise Malformed(f"a {frame.kind.name} frame in place of an answer")
    answer = _ANSWERS.decode(frame.body)
    if isinstance(answer, Refusal):
        raise BY_CODE.get(answer.code, PeerUnreachable)(answer.message)
    return answer


# The follower's side.


async def receive_snapshot(
    setting: Setting, channel: Channel, accept: Callable[[bytes], Awaitable[Inlet]]
) -> None:
    """Hear one offer and take in its data. Raises `Cut` and `Malformed`."""
    end = _End(channel, setting)
    offer = await end.hear()
    if offer.kind is not Kind.REQUEST:
        raise Malformed(f"a {offer.kind.name} frame in place of an offer")
    try:
        inlet = await accept(offer.body)
        await _tell(end, _Progress(inlet.staged_bytes))
        while inlet.staged_bytes < inlet.total_bytes:
            data = await end.hear()
            if data.kind is not Kind.DATA:
                raise Malformed(f"a {data.kind.name} frame in place of data")
            await inlet.add(data.body)
            await _tell(end, _Progress(inlet.staged_bytes))
        await _finish(end, inlet, setting)
    except NefiaError as error:
        await _tell(end, Refusal(error.code, error.message))
    else:
        await _tell(end, _Progress(inlet.staged_bytes, ready=True))


async def _tell(end: _End, answer: _Progress | Refusal) -> None:
    await end.say(Kind.ANSWER, _ANSWERS.encode(answer))


async def _finish(end: _End, inlet: Inlet, setting: Setting) -> None:
    """It may take long; the leader hears meanwhile that this node is alive."""
    failure: list[Exception] = []

    async def pong() -> None:
        try:
            while True:
                await sleep(setting.clock, setting.ping_seconds)
                await end.say(Kind.PONG)
        except Cut as cut:
            failure.append(cut)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pong)
        try:
            await inlet.finish()
        except NefiaError as error:
            failure.append(error)
        nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]
