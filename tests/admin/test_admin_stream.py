"""Streams over the admin socket: as much as the client reads, until it leaves (SPEC 4, `watch`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nefia.admin.protocol import Reply, Request, Stream
from nefia.errors import ShuttingDown
from tests.admin.test_admin_server import Client, connected, line, serving


class Source:
    """A handler that streams what is put in, and ends with an error when told so."""

    def __init__(self) -> None:
        self.put, self._got = trio.open_memory_channel[list[dict[str, Any]]](math.inf)
        self.taken = 0
        self.closed = trio.Event()

    def __call__(self, request: Request, reply: Reply) -> Stream:
        return self.stream()

    async def stream(self) -> Stream:
        try:
            async for events in self._got:
                self.taken += 1
                yield events
            raise ShuttingDown("that is all")
        finally:
            self.closed.set()


@pytest.mark.trio
class TestStreams:
    async def test_streams_until_the_client_leaves(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        source = Source()
        async with connected(source) as client:
            await client.send(line(seq=7, id="1"))
            await source.put.send([{"event": "a"}, {"event": "b"}])
            assert await client.answer() == {"seq": 7, "event": "a"}
            assert await client.answer() == {"seq": 7, "event": "b"}
            await source.put.send([{"event": "c"}])
            assert await client.answer() == {"seq": 7, "event": "c"}
        await source.closed.wait()

    async def test_a_stream_ends_with_an_error_and_others_go_on(self) -> None:
        source = Source()
        async with connected(source) as client:
            await client.send(line(seq=7, id="1"), b"nonsense\n")
            assert (await client.answer())["error"]["code"] == "invalid_argument"
            source.put.close()
            assert (await client.answer())["error"]["code"] == "shutting_down"
            await client.send(b"nonsense\n")
            assert (await client.answer())["error"]["code"] == "invalid_argument"

    async def test_takes_no_more_of_a_stream_than_the_client_reads(self, tmp_path: Path) -> None:
        source = Source()
        async with serving(tmp_path / "s", source):
            stream = await trio.open_unix_socket(str(tmp_path / "s"))
            client = Client(stream)
            await client.send(line(seq=7, id="1"))
            for number in range(100):
                await source.put.send([{"event": "x" * 100_000, "number": number}])
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert source.taken < 20
            for number in range(100):
                assert (await client.answer())["number"] == number
            await stream.aclose()
