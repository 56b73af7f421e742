"""What the Reactor does by time: pings, pace, handshakes that do not end. On a clock that jumps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from nefia.clock import TrioNodeClock
from nefia.services.reactor.beacon import (
    MAX_IN_FLIGHT,
    PING_SECONDS,
    PONG_SECONDS,
    SEND_SECONDS,
)
from nefia.services.reactor.events import acknowledged
from nefia.services.reactor.gate import Gate
from nefia.services.reactor.listener import HANDSHAKE_SECONDS, Listener
from nefia.services.reactor.pace import BURST_SECONDS, Pace
from tests.services.reactor.driving import EVENT, asked, heard, reactor_config, say

RATE = 10


async def acknowledge(message: str | bytes) -> str:
    return acknowledged(json.loads(message)["id"])


def made_listener(answer: Callable[..., object] = acknowledge, rate: int = 100_000) -> Listener:
    config = reactor_config(events_per_second=rate)
    return Listener(config, Gate(), TrioNodeClock(), answer)  # type: ignore[arg-type]


async def beacon_on(nursery: trio.Nursery, stream: trio.abc.Stream) -> WebSocketConnection:
    return await wrap_client_stream(nursery, cast(trio.SocketStream, stream), "reactor", "/")


@asynccontextmanager
async def beacon_of(listener: Listener) -> AsyncIterator[WebSocketConnection]:
    """A beacon that is connected by memory; its own end of it closes at the end."""
    async with trio.open_nursery() as nursery:
        theirs, ours = memory_stream_pair()
        nursery.start_soon(listener.handle, ours)
        yield await beacon_on(nursery, theirs)
        nursery.cancel_scope.cancel()


async def test_a_beacon_that_answers_pings_stays(autojump_clock: MockClock) -> None:
    listener = made_listener()
    async with beacon_of(listener) as beacon:
        await trio.sleep(100 * PING_SECONDS)
        assert await asked(beacon, EVENT) == {"ack": "1"}


async def test_a_beacon_that_answers_none_is_dead(autojump_clock: MockClock) -> None:
    listener = made_listener()
    async with trio.open_nursery() as nursery:
        theirs, ours = memory_stream_pair()
        nursery.start_soon(listener.handle, ours)
        async with trio.open_nursery() as reading:
            await beacon_on(reading, theirs)
            reading.cancel_scope.cancel()  # from now on nobody reads there
        began = trio.current_time()
        while listener.connections:  # noqa: ASYNC110
            await trio.sleep(0.1)
        assert trio.current_time() - began <= PING_SECONDS + PONG_SECONDS + 0.2


async def test_a_slow_commit_is_no_dead_beacon(autojump_clock: MockClock) -> None:
    """While we do not read, a pong cannot be heard."""
    release = trio.Event()

    async def answer(message: str | bytes) -> str:
        await release.wait()
        return await acknowledge(message)

    listener = made_listener(answer)
    async with beacon_of(listener) as beacon:
        count = 3 * MAX_IN_FLIGHT
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(say, beacon, EVENT | {"id": str(number)})
            await trio.sleep(10 * (PING_SECONDS + PONG_SECONDS))
            release.set()
        answers = {(await heard(beacon))["ack"] for _ in range(count)}
        assert len(answers) == count


async def test_a_beacon_that_never_reads_its_answers_ends(autojump_clock: MockClock) -> None:
    listener = made_listener()
    async with trio.open_nursery() as nursery:
        theirs, ours = memory_stream_pair()
        nursery.start_soon(listener.handle, ours)
        async with trio.open_nursery() as reading:
            beacon = await beacon_on(reading, theirs)
            full = trio.Event()

            async def stuck(data: bytes) -> None:
                full.set()
                await trio.sleep_forever()

            ours.send_stream.send_all = stuck  # type: ignore[method-assign, assignment]
            await say(beacon, EVENT)
            await full.wait()
            began = trio.current_time()
            with pytest.raises(ConnectionClosed):
                await beacon.get_message()
            assert trio.current_time() - began <= SEND_SECONDS + 0.1
            reading.cancel_scope.cancel()


async def test_a_handshake_has_its_time(autojump_clock: MockClock) -> None:
    listener = made_listener()
    theirs, ours = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.handle, ours)
        began = trio.current_time()
        await theirs.send_all(b"GET / HTTP/1.1\r\nHost: ")
        assert await theirs.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(HANDSHAKE_SECONDS)


async def test_what_comes_too_fast_waits_and_is_not_lost(autojump_clock: MockClock) -> None:
    count = 10 * RATE
    listener = made_listener(rate=RATE)
    async with beacon_of(listener) as beacon, beacon_of(listener) as other:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(say, beacon, EVENT | {"id": str(number)})
            # Nobody else waits for it.
            assert await asked(other, EVENT) == {"ack": "1"}
            assert trio.current_time() == began
            answers = {(await heard(beacon))["ack"] for _ in range(count)}
        assert len(answers) == count
        took = trio.current_time() - began
        assert took == pytest.approx(count / RATE - BURST_SECONDS, abs=0.2)


@given(
    st.floats(0.1, 1000),
    st.lists(st.floats(0, 10), min_size=1, max_size=200),
)
def test_a_pace_is_kept_over_any_time(per_second: float, gaps: list[float]) -> None:
    pace = Pace(per_second, 0.0)
    now = 0.0
    turns: list[float] = []
    for gap in gaps:
        now = max(now + gap, turns[-1] if turns else 0.0)
        turn = pace.turn(now)
        assert turn >= now
        turns.append(turn)
    for first, begin in enumerate(turns):
        for last in range(first, len(turns)):
            allowed = (turns[last] - begin + BURST_SECONDS) * per_second + 1
            assert last - first + 1 <= allowed + 1e-6 * len(turns) + 1
