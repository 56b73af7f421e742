"""Beacons and the Reactor over real sockets: what is acknowledged, refused, bounded and closed."""

from __future__ import annotations

import json
from contextlib import suppress
from random import Random
from typing import cast

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from nefia.errors import OutcomeUnknown
from nefia.net.network import TcpNetwork
from nefia.services.interface import ServiceFailed
from nefia.services.reactor import beacon as beacon_module
from nefia.services.reactor import listener as listener_module
from nefia.services.reactor.events import MAX_EVENT_BYTES
from nefia.services.reactor.listener import (
    HANDSHAKE_SECONDS,
    MAX_MESSAGE_CHARACTERS,
    MAX_PENDING_HANDSHAKES,
)
from nefia.state.commands import Command, PushTasks
from nefia.state.records import Outcome
from tests.services.reactor.driving import (
    ENQUEUE,
    EVENT,
    PATIENCE_SECONDS,
    TENURE,
    FakeNode,
    asked,
    connected,
    heard,
    made_reactor,
    reactor_config,
    rule,
    say,
    started,
    until,
)

SEED = 5


async def closed_with(beacon: WebSocketConnection) -> tuple[int, str | None]:
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ConnectionClosed) as caught:
        await beacon.get_message()
    assert caught.value.reason is not None
    return caught.value.reason.code, caught.value.reason.reason


async def test_an_event_is_acknowledged_once_its_task_is_there() -> None:
    async with started() as stage, connected(stage.url) as beacon:
        assert await asked(beacon, EVENT) == {"ack": "1"}
        [task] = stage.node.tasks("events")
        assert json.loads(task.payload) == EVENT


async def test_no_acknowledgement_before_the_commit() -> None:
    node = FakeNode(gate=trio.Event())
    async with started(node=node) as stage, connected(stage.url) as beacon:
        await say(beacon, EVENT)
        with trio.move_on_after(0.2):
            await beacon.get_message()
            raise AssertionError("acknowledged what is not committed")
        assert node.gate is not None
        node.gate.set()
        assert await heard(beacon) == {"ack": "1"}


async def test_the_same_event_again_is_acknowledged_and_changes_nothing() -> None:
    async with started() as stage:
        for _ in range(2):
            async with connected(stage.url) as beacon:
                assert await asked(beacon, EVENT) == {"ack": "1"}
                assert await asked(beacon, EVENT | {"data": {"n": 2}}) == {"ack": "1"}
                assert await asked(beacon, EVENT | {"host": "web-2"}) == {"ack": "1"}
        assert [json.loads(task.payload)["host"] for task in stage.node.tasks("events")] == [
            "web-1",
            "web-2",
        ]
        counts = stage.reactor.status()
        assert (counts["accepted"], counts["repeated"]) == (2, 4)


async def test_an_event_that_no_rule_wants_changes_nothing() -> None:
    config = reactor_config(rule(ENQUEUE, type="other"))
    async with started(config) as stage, connected(stage.url) as beacon:
        assert await asked(beacon, EVENT) == {"ack": "1"}
        assert stage.node.commands == []
        assert stage.reactor.status()["unmatched"] == 1


async def test_all_that_comes_of_an_event_is_one_change() -> None:
    """One of two could be lost with the leader between them, and the event be acknowledged."""
    config = reactor_config(rule(ENQUEUE, ENQUEUE, name="a"), rule(ENQUEUE, name="b"))
    async with started(config) as stage, connected(stage.url) as beacon:
        await asked(beacon, EVENT)
        [push] = stage.node.commands
        assert isinstance(push, PushTasks)
        assert len(push.tasks) == 3


@pytest.mark.parametrize("loses", [False, True])
async def test_an_unknown_outcome_is_no_acknowledgement(loses: bool) -> None:
    node = FakeNode(error=OutcomeUnknown("no majority"), loses=loses)
    async with started(node=node) as stage, connected(stage.url) as beacon:
        answer = await asked(beacon, EVENT)
        assert answer["id"] == "1"
        assert (answer["error"]["code"], answer["error"]["again"]) == ("timeout", True)
        node.error = None
        assert await asked(beacon, EVENT) == {"ack": "1"}
        assert len(node.tasks("events")) == 1


async def test_what_a_rule_cannot_make_a_task_of_is_refused() -> None:
    from nefia.config.reactor import EnqueueConfig, parse_template

    config = reactor_config(rule(EnqueueConfig(host=parse_template("${data.name}"))))
    async with started(config) as stage, connected(stage.url) as beacon:
        answer = await asked(beacon, EVENT | {"data": {"name": "x" * 300}})
        assert answer["error"]["code"] == "too_large"
        assert answer["error"]["again"] is False
        assert "a rule" in answer["error"]["message"]


async def test_a_bad_message_costs_nobody_anything() -> None:
    async with (
        started() as stage,
        connected(stage.url) as good,
        connected(stage.url) as bad,
    ):
        for message in ("{", "[]", '{"id": 1}', "x" * (MAX_EVENT_BYTES + 1)):
            answer = await asked(bad, message)
            assert answer["error"]["code"] in ("invalid_argument", "too_large"), message
        await bad.send_message(b"\x00")
        assert "binary" in (await heard(bad))["error"]["message"]
        assert await asked(bad, EVENT) == {"ack": "1"}
        assert await asked(good, EVENT | {"id": "2"}) == {"ack": "2"}
        await bad.send_message("x" * (MAX_MESSAGE_CHARACTERS + 1))
        assert (await closed_with(bad))[0] == 1009
        assert await asked(good, EVENT | {"id": "3"}) == {"ack": "3"}


async def test_garbage_in_place_of_a_handshake() -> None:
    random = Random(SEED)
    pieces = [
        b"GET / HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"Upgrade: websocket\r\n",
        b"Connection: Upgrade\r\n",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Sec-WebSocket-Version: 13\r\n",
        b"Content-Length: 5\r\n",
        b"\r\n",
        b"\x81\x85\x00\x00\x00\x00hello",
        b"\x16\x03\x01" + bytes(40),
    ]
    async with started() as stage, connected(stage.url) as good:
        network = TcpNetwork(10.0)
        for number in range(150):
            stream = await network.dial(stage.reactor.config.listen)
            assert isinstance(stream, trio.SocketStream)
            async with stream:
                kept = [piece for piece in pieces if random.random() < 0.8]
                noise = random.randbytes(random.randrange(40)) if number % 3 == 0 else b""
                await stream.send_all(b"".join(kept) + noise)
                if number % 2:
                    await stream.send_eof()
                with trio.move_on_after(0.01):
                    await stream.receive_some()
        assert await asked(good, EVENT) == {"ack": "1"}


async def test_garbage_in_place_of_frames() -> None:
    random = Random(SEED)
    async with started() as stage, connected(stage.url) as good:
        for number in range(100):
            async with connected(stage.url) as bad:
                noise = random.randbytes(random.randrange(1, 60))
                if number % 2:  # a masked frame of some kind, so that it goes deeper
                    noise = bytes([random.randrange(256), 0x80 | min(len(noise), 125)]) + noise
                await bad._stream.send_all(noise)
                with trio.move_on_after(0.01), suppress(ConnectionClosed):
                    await bad.get_message()
                await bad._stream.aclose()
        assert await asked(good, EVENT) == {"ack": "1"}
        await until(lambda: stage.reactor.status()["connections"] == 1)


async def test_events_in_flight_are_bounded() -> None:
    running = most = 0

    class Counting(FakeNode):
        async def change(self, command: Command, request_id: str) -> Outcome:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            try:
                return await super().change(command, request_id)
            finally:
                running -= 1

    node = Counting(gate=trio.Event())
    count = 3 * beacon_module.MAX_IN_FLIGHT
    async with started(node=node) as stage, connected(stage.url) as beacon:
        for number in range(count):
            await say(beacon, EVENT | {"id": str(number)})
        await until(lambda: running == beacon_module.MAX_IN_FLIGHT)
        assert node.gate is not None
        node.gate.set()
        answers = [await heard(beacon) for _ in range(count)]
        assert {answer["ack"] for answer in answers} == {str(number) for number in range(count)}
        assert most == beacon_module.MAX_IN_FLIGHT


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
async def test_connections_are_bounded(limit: str) -> None:
    async with started(reactor_config(**{limit: 2})) as stage:
        async with connected(stage.url) as first:
            async with connected(stage.url):
                network = TcpNetwork(1.0)
                with trio.fail_after(HANDSHAKE_SECONDS / 2):
                    third = await network.dial(stage.reactor.config.listen)
                    assert await third.receive_some() == b""
                await third.aclose()
                assert await asked(first, EVENT) == {"ack": "1"}
            await until(lambda: stage.reactor.status()["connections"] == 1)
        await until(lambda: stage.reactor.status()["connections"] == 0)
        async with connected(stage.url) as later:
            assert await asked(later, EVENT) == {"ack": "1"}


async def test_silent_strangers_keep_nobody_out() -> None:
    config = reactor_config(max_connections_per_address=1000)
    async with started(config) as stage:
        network = TcpNetwork(10.0)
        silent = [
            await network.dial(stage.reactor.config.listen)
            for _ in range(MAX_PENDING_HANDSHAKES + 5)
        ]
        async with connected(stage.url) as beacon:
            assert await asked(beacon, EVENT) == {"ack": "1"}
        with trio.fail_after(HANDSHAKE_SECONDS / 2):
            assert await silent[0].receive_some() == b""
        for stream in silent:
            await stream.aclose()


class TestTheEnd:
    async def test_beacons_are_told_who_leads_before_the_listener_goes(self) -> None:
        node = FakeNode(leader=("n2", "10.0.0.2:9700"))
        async with started(reactor_config(urls=(("n2", "wss://two.example:9500"),)), node) as stage:
            async with connected(stage.url) as beacon, trio.open_nursery() as nursery:
                await asked(beacon, EVENT)
                nursery.start_soon(stage.reactor.stop, "handed over")
                code, reason = await closed_with(beacon)
            assert code == 1012
            assert json.loads(reason or "") == {"leader_id": "n2", "url": "wss://two.example:9500"}
            with pytest.raises(OSError, match="refused"):
                await TcpNetwork(1.0).dial(stage.reactor.config.listen)

    async def test_while_this_node_still_leads_nobody_is_named(self) -> None:
        async with (
            started() as stage,
            connected(stage.url) as beacon,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(stage.reactor.stop, "SIGTERM")
            assert await closed_with(beacon) == (1012, '{"leader_id":null,"url":null}')

    async def test_what_is_in_flight_is_answered_first(self) -> None:
        node = FakeNode(gate=trio.Event())
        async with (
            started(node=node) as stage,
            connected(stage.url) as beacon,
            trio.open_nursery() as nursery,
        ):
            await say(beacon, EVENT)
            await until(lambda: stage.reactor._running is not None)
            await trio.sleep(0.05)
            nursery.start_soon(stage.reactor.stop, "SIGTERM")
            await trio.sleep(0.02)
            assert node.gate is not None
            node.gate.set()
            assert await heard(beacon) == {"ack": "1"}
            assert (await closed_with(beacon))[0] == 1012

    async def test_what_cannot_be_committed_delays_the_end_by_little(self) -> None:
        node = FakeNode(gate=trio.Event())
        async with (
            started(node=node) as stage,
            connected(stage.url) as beacon,
            trio.open_nursery() as nursery,
        ):
            await say(beacon, EVENT)
            await trio.sleep(0.05)
            nursery.start_soon(stage.reactor.stop, "the lease is lost")
            assert (await closed_with(beacon))[0] == 1012

    async def test_a_beacon_that_reads_nothing_does_not_hold_it_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(beacon_module, "CLOSE_SECONDS", 0.1)
        async with started() as stage:
            stream = await TcpNetwork(10.0).dial(stage.reactor.config.listen)
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await until(lambda: stage.reactor.status()["connections"] == 1)
            with trio.fail_after(PATIENCE_SECONDS):
                await stage.reactor.stop("SIGTERM")
            await stream.aclose()

    async def test_a_fence_closes_everything_without_waiting(self) -> None:
        async with started() as stage, connected(stage.url) as beacon:
            await asked(beacon, EVENT)
            pending = await TcpNetwork(1.0).dial(stage.reactor.config.listen)
            await trio.sleep(0.05)
            assert stage.reactor._running is not None
            listener = stage.reactor._running.listener
            ends = [cast(trio.SocketStream, each).socket for each in listener._streams]
            ends += [cast(trio.SocketListener, each).socket for each in listener._sockets]
            stage.reactor.fence()
            assert {each.fileno() for each in ends} == {-1}, "without a turn of the loop"
            assert len(ends) == 3
            with trio.fail_after(PATIENCE_SECONDS):
                assert (await closed_with(beacon))[0] == 1006
                assert await pending.receive_some() == b""
            await pending.aclose()
            with pytest.raises(OSError, match="refused"):
                await TcpNetwork(1.0).dial(stage.reactor.config.listen)
            stage.reactor.fence()

    async def test_it_can_be_started_again_and_the_counts_go_on(self) -> None:
        async with started() as stage:
            for number, end in enumerate(("stop", "fence", "stop"), 1):
                async with connected(stage.url) as beacon:
                    await asked(beacon, EVENT | {"id": str(number)})
                if end == "stop":
                    await stage.reactor.stop("x")
                else:
                    stage.reactor.fence()
                    await trio.sleep(0.05)
                assert stage.reactor.status()["accepted"] == number
                await stage.reactor.start(TENURE)

    async def test_it_is_right_to_stop_or_fence_what_never_started(self) -> None:
        async with trio.open_nursery() as nursery:
            reactor = made_reactor(reactor_config(), FakeNode(), nursery)
            reactor.fence()
            await reactor.stop("x")
            await reactor.reload()


class TestFailures:
    async def test_an_address_that_is_taken(self) -> None:
        async with started() as stage, trio.open_nursery() as nursery:
            other = made_reactor(stage.reactor.config, FakeNode(), nursery)
            with pytest.raises(ServiceFailed, match=r"cannot listen on 127\.0\.0\.1"):
                await other.start(TENURE)

    async def test_it_says_when_its_listener_has_ended(self) -> None:
        async with started() as stage:
            assert stage.reactor._running is not None
            listener = stage.reactor._running.listener._sockets[0]
            assert isinstance(listener, trio.SocketListener)
            with trio.move_on_after(0.05):
                await stage.reactor.failed()
                raise AssertionError("it has not failed")
            listener.socket.close()
            with trio.fail_after(PATIENCE_SECONDS):
                failure = await stage.reactor.failed()
            assert "takes no connections" in failure.message

    async def test_a_stop_is_no_failure(self) -> None:
        async with started() as stage, trio.open_nursery() as nursery:
            with trio.move_on_after(0.2) as waiting:
                nursery.start_soon(stage.reactor.stop, "x")
                await stage.reactor.failed()
            assert waiting.cancelled_caught


async def test_the_log_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Log:
        def warning(self, event: str, **details: object) -> None:
            told.append(event)

    monkeypatch.setattr(listener_module, "_log", Log())
    async with started(reactor_config(max_connections=1)) as stage, connected(stage.url):
        for _ in range(20):
            stream = await TcpNetwork(1.0).dial(stage.reactor.config.listen)
            assert await stream.receive_some() == b""
            await stream.aclose()
    assert told == ["beacon_turned_away"]
