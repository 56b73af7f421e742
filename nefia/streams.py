"""Sending without waiting, where the stream is a plain socket."""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio
from trio.abc import Stream


def send_now(stream: Stream, parts: Sequence[bytes]) -> int:
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
