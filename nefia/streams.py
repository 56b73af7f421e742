"""Shorter ways to the kernel, where a stream is a plain socket."""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio
from trio.abc import Stream


def send_now(stream: Stream, parts: Sequence[bytes | bytearray]) -> int:
    """Give the kernel `parts`, one behind the other; returns how many bytes it took.

    To have a task send instead costs a turn of trio's loop, some 50 us, which matters where a
    change waits for it. Only for who knows that nobody else is sending. 0 where this cannot be
    done: TLS and memory streams, a full socket, and a broken one, which the next `send_all` meets.
    """
    if type(stream) is not trio.SocketStream:
        return 0
    try:
        return os.writev(stream.socket.fileno(), parts)
    except OSError:
        return 0


async def receive(stream: Stream, most_bytes: int) -> bytes | bytearray:
    """As `stream.receive_some`, which first tries in vain: whoever reads all has to wait for more.

    Raises BrokenResourceError and ClosedResourceError.
    """
    if type(stream) is not trio.SocketStream:
        return await stream.receive_some(most_bytes)
    descriptor = stream.socket.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError("this socket was already closed")
    try:
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            try:
                return os.read(descriptor, most_bytes)
            except BlockingIOError:
                pass
    except OSError as error:
        raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
