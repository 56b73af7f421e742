"""The shorter way to read a socket: what trio's own way gives, bytes, end and errors."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from nefia.streams import receive


def pair() -> tuple[trio.SocketStream, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs


async def test_waits_for_bytes_and_takes_no_more_than_asked_for() -> None:
    stream, far = pair()
    got: list[bytes | bytearray] = []

    async def read() -> None:
        got.append(await receive(stream, 3))

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        far.send(b"abcd")
    assert got == [b"abc"]
    far.close()


async def test_the_end_is_no_bytes() -> None:
    stream, far = pair()
    far.close()
    async with stream:
        assert await receive(stream, 10) == b""


async def test_a_reset_is_a_broken_stream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await trio.open_tcp_stream(*server.getsockname())
        far, _ = server.accept()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    async with stream:
        with pytest.raises(trio.BrokenResourceError):
            await receive(stream, 10)


async def test_who_is_closed_while_it_waits_is_told() -> None:
    stream, far = pair()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await receive(stream, 10)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
    far.close()


async def test_who_has_closed_it_is_told() -> None:
    stream, far = pair()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await receive(stream, 10)
    far.close()


async def test_other_streams_are_asked_themselves() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    await mine.send_all(b"abc")
    assert await receive(theirs, 10) == b"abc"
