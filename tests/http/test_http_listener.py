"""The listener before canned answers, over real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from nefia.admin import MAX_LINE_BYTES
from nefia.admin.protocol import Request, encode_answer, encode_error, parse_request
from nefia.errors import InvalidConfiguration, NefiaError, NoLeader, ShuttingDown
from nefia.http import serving, source
from nefia.http.serving import HttpListener
from tests.admin.statuses import BOTH, NONE, status
from tests.end_to_end.cluster import free_ports
from tests.http.asking import get
from tests.http.test_http_pure import LEADER, MEMBERS, QUEUE, VPN

pytestmark = pytest.mark.timeout(30)

Answers = dict[str, dict[str, Any] | NefiaError]
WELL: Answers = {
    "status": LEADER,
    "members": {"members": MEMBERS, "services": [VPN], "source": "node-2"},
    "queue_stats": {"queues": {"mail": QUEUE}},
    "history": {"events": []},
}


class Canned:
    """Answers as a daemon's `_answer` does; `asked` is what came."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, line: bytes) -> bytes:
        assert len(line) < MAX_LINE_BYTES
        request = parse_request(line)
        assert isinstance(request, Request)
        self.asked.append(request.action)
        answer = self.answers[request.action]
        if isinstance(answer, NefiaError):
            return encode_error(None, answer)
        return encode_answer(None, answer)


@asynccontextmanager
async def listening(answer: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[int]:
    """The port."""
    [port] = free_ports(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(HttpListener(f"127.0.0.1:{port}", answer).run)
        yield port
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("path", "code"),
    [("/livez", 200), ("/readyz", 200), ("/leader", 200), ("/replica", 503), ("/other", 404)],
)
async def test_a_leader(path: str, code: int) -> None:
    async with listening(Canned(WELL)) as port:
        answered = await get(port, path)
    assert answered.code == code
    if code != 404:
        assert json.loads(answered.body)["ok"] == (code == 200)
        assert answered.headers["cache-control"] == "no-store"


async def test_without_a_leader_the_reason_is_told() -> None:
    async with listening(Canned({"status": status(BOTH, **NONE)})) as port:
        answered = await get(port, "/readyz")
        assert (await get(port, "/livez")).code == 200
    assert answered.code == 503
    assert json.loads(answered.body)["reasons"] == ["no leader is known"]


async def test_liveness_asks_nobody() -> None:
    canned = Canned({})
    async with listening(canned) as port:
        assert (await get(port, "/livez")).code == 200
    assert canned.asked == []


async def test_a_node_that_stops() -> None:
    canned = Canned({"status": ShuttingDown("the daemon is shutting down")})
    async with listening(canned) as port:
        for path in ("/readyz", "/leader", "/replica"):
            answered = await get(port, path)
            assert answered.code == 503
            assert b"shutting_down" in answered.body
        assert b"nefia_up 0.0" in (await get(port, "/metrics")).body
        overview = json.loads((await get(port, "/api/overview")).body)
    assert overview["status"] is None
    assert overview["problems"] == ["shutting_down: the daemon is shutting down"]


async def test_a_node_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(line: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(source, "ANSWER_SECONDS", 0.05)
    async with listening(never) as port:
        answered = await get(port, "/leader")
    assert answered.code == 503
    assert b"timeout: no answer within 0.05 s" in answered.body


async def test_metrics_of_a_follower_ask_no_other_node() -> None:
    canned = Canned(WELL | {"status": status(BOTH)})
    async with listening(canned) as port:
        text = (await get(port, "/metrics")).body
    assert b"nefia_is_leader 0.0" in text
    assert b"nefia_event_loop_delay_seconds_count" in text
    assert "members" not in canned.asked


async def test_the_overview_is_made_once_for_many() -> None:
    canned = Canned(WELL)
    async with listening(canned) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(get, port, "/api/overview")
        overview = json.loads((await get(port, "/api/overview")).body)
    assert canned.asked.count("status") == 1
    assert overview["why"][0].startswith("node-1 leads in term 7")
    assert overview["degraded"] == []
    assert overview["queues"] == {"mail": QUEUE}
    assert (overview["services_of"], overview["services"]) == ("node-2", [VPN])


async def test_the_overview_says_what_is_missing() -> None:
    canned = Canned(WELL | {"members": NoLeader("no leader is known")})
    async with listening(canned) as port:
        overview = json.loads((await get(port, "/api/overview")).body)
    assert overview["members"] == []
    assert overview["services_of"] == "node-1"
    assert overview["problems"] == ["members: no_leader: no leader is known"]


async def test_the_page_is_self_contained() -> None:
    async with listening(Canned(WELL)) as port:
        answered = await get(port, "/")
    html = answered.body.decode()
    assert answered.headers["content-type"].startswith("text/html")
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "://" not in html
    assert "innerHTML" not in html
    assert "default-src 'none'" in answered.headers["content-security-policy"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_nothing_can_be_changed(method: str) -> None:
    canned = Canned(WELL)
    async with listening(canned) as port:
        for path in ("/", "/leader", "/api/overview"):
            assert (await get(port, path, method, "Content-Length: 0\r\n")).code == 405
    assert canned.asked == []


async def test_a_mistake_in_an_answer_ends_one_request(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def mistaken(line: bytes) -> bytes:
        return b"{}"

    async with listening(mistaken) as port:
        assert (await get(port, "/leader")).code == 500
        assert (await get(port, "/livez")).code == 200
    assert "KeyError" in capfd.readouterr().err


async def test_a_header_without_end() -> None:
    async with listening(Canned(WELL)) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nX: " + b"x" * (64 << 10))
            with trio.fail_after(5):
                received = b"".join([chunk async for chunk in stream])
        assert received == b"" or received.startswith(b"HTTP/1.1 4")
        assert (await get(port, "/livez")).code == 200


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 2)
    async with listening(Canned(WELL)) as port:
        async with await connect(port), await connect(port), await connect(port) as third:
            with trio.fail_after(5), suppress(trio.BrokenResourceError):  # reset, or ended
                assert await third.receive_some() == b""
        # Those who have left without a request take no place.
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await get(port, "/livez")).code == 200


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "IDLE_SECONDS", 0.1)
    async with listening(Canned(WELL)) as port, await connect(port) as stream:
        with trio.fail_after(5):
            assert await stream.receive_some() == b""


async def test_a_client_that_does_not_read_delays_no_end() -> None:
    with trio.fail_after(5):
        async with listening(Canned(WELL)) as port:
            stream = await connect(port)
            with trio.move_on_after(1):  # more than buffers take, on both sides
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100_000)
                pytest.fail("the client was never held up")
        await trio.aclose_forcefully(stream)


async def connect(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await trio.testing.wait_all_tasks_blocked(0.02)  # it is accepted
    return stream


async def test_an_address_that_is_taken() -> None:
    async with listening(Canned(WELL)) as port:
        other = HttpListener(f"127.0.0.1:{port}", Canned(WELL))
        with pytest.raises(InvalidConfiguration, match=r"cannot listen on http.listen 127"):
            await other.run()
