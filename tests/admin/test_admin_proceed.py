"""What has arrived together is handed over together, for one entry of the log."""

from __future__ import annotations

import trio
import trio.testing

from nefia.admin.protocol import Reply, Request
from nefia.admin.server import serve_connection
from tests.admin.test_admin_server import line


async def test_the_handler_may_proceed_when_it_has_all_that_arrived_together() -> None:
    order: list[object] = []
    mine, theirs = trio.testing.memory_stream_pair()

    def handle(request: Request, reply: Reply) -> None:
        order.append(request.seq)
        reply({})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, handle, lambda: order.append("proceed"))
        await mine.send_all(b"".join(line(id="1", seq=seq) for seq in (1, 2, 3)))
        await trio.testing.wait_all_tasks_blocked()
        assert order == [1, 2, 3, "proceed"]
        await mine.send_all(line(id="1", seq=4) + line(id="1", seq=5).rstrip())
        await trio.testing.wait_all_tasks_blocked()
        assert order[4:] == [4, "proceed"]
        await mine.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert order[6:] == [5, "proceed"]
        await mine.aclose()
