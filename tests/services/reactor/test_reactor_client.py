"""Sending one event to whichever Reactor leads."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from nefia.clock import TrioNodeClock
from nefia.errors import InvalidArgument, NoLeader, NoQuorum, OutcomeUnknown, Permission
from nefia.services.reactor.client import Sender
from tests.end_to_end.cluster import free_ports
from tests.services.reactor.certificates import certified
from tests.services.reactor.driving import EVENT, FakeNode, reactor_config, started

TEXT = json.dumps(EVENT).encode()
TOKEN = "0123456789abcdef"


def sender(*urls: str, **options: str) -> Sender:
    return Sender(urls, TrioNodeClock(), **options)  # type: ignore[arg-type]


async def test_the_one_that_answers_gets_it() -> None:
    nobody = f"ws://127.0.0.1:{free_ports(1)[0]}"
    async with started() as stage:
        assert await sender(nobody, stage.url).send(TEXT, 5) == stage.url
        assert len(stage.node.tasks("events")) == 1


async def test_one_that_no_longer_leads_sends_it_on() -> None:
    async def gone(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await socket.get_message()
        await socket.aclose(1012, '{"leader_id":null,"url":null}')

    async with trio.open_nursery() as nursery, started() as stage:
        server = await nursery.start(serve_websocket, gone, "127.0.0.1", 0, None)
        await sender(f"ws://127.0.0.1:{server.port}", stage.url).send(TEXT, 5)
        assert len(stage.node.tasks("events")) == 1
        nursery.cancel_scope.cancel()


async def test_it_is_sent_again_until_it_is_committed() -> None:
    node = FakeNode(error=NoQuorum("no majority"))
    async with started(node=node) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(sender(stage.url).send, TEXT, 5)
        await trio.sleep(0.3)
        node.error = None
    assert len(node.tasks("events")) == 1


async def test_nobody_there() -> None:
    with pytest.raises(NoLeader, match="refused"):
        await sender(f"ws://127.0.0.1:{free_ports(1)[0]}").send(TEXT, 0.5)


async def test_nobody_says_what_came_of_it() -> None:
    node = FakeNode(gate=trio.Event())
    async with started(node=node) as stage:
        with pytest.raises(OutcomeUnknown) as caught:
            await sender(stage.url).send(TEXT, 0.3)
        assert "same id" in caught.value.hint


async def test_what_is_wrong_with_an_event() -> None:
    async with started() as stage:
        with pytest.raises(InvalidArgument, match="host") as caught:
            await sender(stage.url).send(b'{"id": "1", "type": "t"}', 5)
        assert caught.value.changed is False


async def test_the_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN)
    async with started(reactor_config(token_file=path)) as stage:
        with pytest.raises(Permission, match="token"):
            await sender(stage.url, token="wrong").send(TEXT, 5)
        await sender(stage.url, token=TOKEN).send(TEXT, 5)


async def test_tls(tmp_path: Path) -> None:
    files = certified(tmp_path)
    config = reactor_config(tls_cert_file=files.cert, tls_key_file=files.key)
    async with started(config) as stage:
        clock = TrioNodeClock()
        await Sender([stage.url], clock, context=files.context).send(TEXT, 5)
        with pytest.raises(NoLeader, match="certificate"):
            await Sender([stage.url], clock, context=ssl.create_default_context()).send(TEXT, 1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [("{}", "not one of a Reactor"), ("no", "no JSON"), (b'"\xff"', "no JSON")],
)
async def test_one_that_is_no_reactor(answer: str | bytes, why: str) -> None:
    async def other(request: WebSocketRequest) -> None:
        socket = await request.accept()
        try:
            while True:
                await socket.get_message()
                await socket.send_message(answer)
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, other, "127.0.0.1", 0, None)
        with pytest.raises(OutcomeUnknown, match=why):
            await sender(f"ws://127.0.0.1:{server.port}").send(TEXT, 0.3)
        nursery.cancel_scope.cancel()
