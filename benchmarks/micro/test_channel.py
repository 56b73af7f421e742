"""Frames between two nodes: over a socket of this machine, from one task to another."""

from __future__ import annotations

import socket

import pytest
import trio

from benchmarks.micro.samples import Benchmark
from nefia.clock import TrioNodeClock
from nefia.net.channel import Channel
from nefia.net.frames import MAX_FRAME_BYTES, Kind

pytestmark = pytest.mark.benchmark(group="channel")

FRAMES = 500


def channels() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    streams = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in (one, other))
    a, b = (Channel(stream, TrioNodeClock(), MAX_FRAME_BYTES) for stream in streams)
    return a, b


@pytest.mark.parametrize("size_bytes", [100, 20_000])
def test_five_hundred_frames_one_way(benchmark: Benchmark, size_bytes: int) -> None:
    body = b"x" * size_bytes

    async def exchange() -> int:
        a, b = channels()
        received = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.write_loop)
            for _ in range(FRAMES):
                assert a.post(Kind.MESSAGE, body)
            while received < FRAMES:
                received += len(await b.receive())
            nursery.cancel_scope.cancel()
        await a.close()
        await b.close()
        return received

    assert benchmark(trio.run, exchange) == FRAMES


def test_five_hundred_round_trips(benchmark: Benchmark) -> None:
    async def exchange() -> int:
        a, b = channels()

        async def echo() -> None:
            while True:
                for frame in await b.receive():
                    b.post(frame.kind, frame.body)

        trips = 0
        async with trio.open_nursery() as nursery:
            for task in (a.write_loop, b.write_loop, echo):
                nursery.start_soon(task)
            for _ in range(FRAMES):
                a.post(Kind.PING)
                trips += len(await a.receive())
            nursery.cancel_scope.cancel()
        await a.close()
        await b.close()
        return trips

    assert benchmark(trio.run, exchange) == FRAMES
