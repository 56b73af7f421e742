"""Who comes in from outside: garbage, silence, crowds, wrong names, adoption."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from nefia.clock import TrioNodeClock
from nefia.errors import OtherCluster
from nefia.net.acceptor import (
    MAX_ASKS_PER_PEER,
    MAX_PENDING_HANDSHAKES,
    MAX_REPORTS,
    MAX_STRANGERS,
    REPEAT_SECONDS,
)
from nefia.net.channel import Channel, Cut
from nefia.net.frames import MAX_FRAME_BYTES, Frame, Kind, header
from nefia.net.handshake import (
    ASK,
    PROBE,
    RAFT,
    Handshake,
    Hello,
    Refusal,
    Welcome,
    decode,
    encode,
)
from nefia.net.interface import PeerTarget
from nefia.raft.messages import Message
from nefia.wire import MESSAGES
from tests.net.net_driver import Node, eventually, small
from tests.net.net_memory import MemoryNetwork

TIMEOUT_SECONDS = 10.0


class Here:
    """One node on a network in memory, and raw connections to it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.net = MemoryNetwork()
        self.node = Node("here", self.net.of("here"), transport_timeout_seconds=TIMEOUT_SECONDS)
        self.nursery = nursery

    async def dial(self) -> Channel:
        stream = await self.net.of("outside").dial("here:9700")
        return Channel(stream, TrioNodeClock(), MAX_FRAME_BYTES)

    async def say(self, hello: Hello) -> tuple[Channel, Handshake]:
        channel = await self.dial()
        await channel.send(Kind.HANDSHAKE, encode(hello))
        return channel, decode((await channel.receive_one()).body)

    async def enter(self, hello: Hello) -> Channel:
        channel, answer = await self.say(hello)
        assert isinstance(answer, Welcome)
        return channel

    def reasons(self, event: str) -> list[object]:
        return [report["reason"] for report in self.node.events.reported(event)]


@pytest.fixture
async def here(nursery: trio.Nursery) -> Here:
    here = Here(nursery)
    await nursery.start(here.node.run)
    return here


def hello_of(name: str, purpose: str = RAFT, **fields: object) -> Hello:
    return Node(name, MemoryNetwork().of(name)).hello(purpose, **fields)


async def ends(channel: Channel) -> list[Frame]:
    """What still comes until the other side ends the connection."""
    frames: list[Frame] = []
    try:
        while True:
            frames += await channel.receive()
    except Cut:
        return frames


async def test_a_probe_is_told_the_view(autojump_clock: MockClock, here: Here) -> None:
    channel, welcome = await here.say(hello_of("asker", PROBE))
    assert isinstance(welcome, Welcome)
    assert welcome.view == here.node.events.view()
    await ends(channel)


async def test_a_lane_is_told_no_view(autojump_clock: MockClock, here: Here) -> None:
    _, welcome = await here.say(hello_of("peer"))
    assert isinstance(welcome, Welcome)
    assert welcome.view is None
    assert welcome.incarnation == here.node.me.incarnation


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes"),
        (b"\x16\x03\x01\x02\x00\x01", "this is TLS"),
        (b"\x00\x00\x00\x00", "a frame of 0 bytes"),
        ((4097).to_bytes(4, "big"), "a frame of 4097 bytes; 1 to 4096 are allowed"),
        (header(Kind.HANDSHAKE, b"x" * 20) + b"x" * 20, "this is not a nefia handshake"),
        (header(Kind.PING, b""), "this is not a nefia handshake"),
        (b"\x00\x00\x00\x01\x63", "unknown kind 99"),
    ],
)
async def test_garbage_is_reported_and_cut(
    autojump_clock: MockClock, here: Here, sent: bytes, reason: str
) -> None:
    channel = await here.dial()
    await channel._stream.send_all(sent)
    assert await ends(channel) == []
    (told,) = here.reasons("garbage")
    assert reason in str(told)
    await here.enter(hello_of("peer"))


async def test_a_handshake_that_begins_with_an_answer_is_garbage(
    autojump_clock: MockClock, here: Here
) -> None:
    channel = await here.dial()
    await channel.send(Kind.HANDSHAKE, encode(Refusal("busy", "No.")))
    await ends(channel)
    assert here.reasons("garbage") == ["a handshake that begins with an answer"]


async def test_another_version_is_told_so(autojump_clock: MockClock, here: Here) -> None:
    channel = await here.dial()
    await channel.send(Kind.HANDSHAKE, b"nefia\x00\x09\x00\x09" + b"of a form unknown today")
    answer = decode((await channel.receive_one()).body)
    assert isinstance(answer, Refusal)
    assert answer.code == "newer_format"
    await ends(channel)


async def test_who_says_nothing_is_cut_at_the_timeout(
    autojump_clock: MockClock, here: Here
) -> None:
    channel = await here.dial()
    await channel._stream.send_all(b"\x00\x00")
    await ends(channel)
    assert trio.current_time() == pytest.approx(TIMEOUT_SECONDS, abs=0.1)


async def test_a_lane_that_falls_silent_is_cut_at_the_timeout(
    autojump_clock: MockClock, here: Here
) -> None:
    channel = await here.enter(hello_of("peer"))
    frames = await ends(channel)
    assert {frame.kind for frame in frames} <= {Kind.PONG}
    assert trio.current_time() == pytest.approx(TIMEOUT_SECONDS, abs=2.0)
    assert here.reasons("connection_ended") == []


async def test_an_asker_that_asks_nothing_is_cut_at_the_timeout(
    autojump_clock: MockClock, here: Here
) -> None:
    channel = await here.enter(hello_of("peer", ASK))
    await ends(channel)
    assert trio.current_time() == pytest.approx(TIMEOUT_SECONDS, abs=0.1)


async def test_pings_are_answered_and_keep_a_lane_up(autojump_clock: MockClock, here: Here) -> None:
    channel = await here.enter(hello_of("peer"))
    pongs: list[Frame] = []

    async def listen() -> None:
        while True:
            pongs.extend(await channel.receive())

    here.nursery.start_soon(listen)
    for _ in range(60):
        await channel.send(Kind.PING, b"")
        await trio.sleep(1)
    assert {frame.kind for frame in pongs} == {Kind.PONG}
    assert 59 <= len(pongs) <= 120


async def test_silent_strangers_keep_nobody_out(autojump_clock: MockClock, here: Here) -> None:
    crowd = [await here.dial() for _ in range(3 * MAX_PENDING_HANDSHAKES)]
    await trio.sleep(0.1)
    assert len(here.node.mesh._acceptor._pending) == MAX_PENDING_HANDSHAKES
    for channel in crowd[:-MAX_PENDING_HANDSHAKES]:
        await ends(channel)
    assert trio.current_time() < TIMEOUT_SECONDS
    await here.enter(hello_of("peer"))
    assert len(here.node.mesh._acceptor._pending) < MAX_PENDING_HANDSHAKES


async def test_strangers_are_few_and_peers_get_in_all_the_same(
    autojump_clock: MockClock, here: Here
) -> None:
    here.node.mesh.set_peers({"peer": PeerTarget("nowhere:1")})
    for number in range(MAX_STRANGERS):
        await here.enter(hello_of(f"stranger{number}"))
    channel, answer = await here.say(hello_of("one-more"))
    assert isinstance(answer, Refusal)
    assert answer.code == "busy"
    await ends(channel)
    await here.enter(hello_of("peer"))
    _, answer = await here.say(hello_of("prober", PROBE))
    assert isinstance(answer, Welcome)


async def test_a_stranger_is_met_again_whenever_it_speaks(
    autojump_clock: MockClock, here: Here
) -> None:
    """It has to be answered, and the way to it may have been given up while this one lasted."""
    channel = await here.enter(hello_of("peer", address="peer:1"))
    assert here.node.events.strangers == [("peer", "peer:1")]
    await channel.send(Kind.MESSAGE, MESSAGES.encode(small("peer", "here")))
    await eventually(lambda: here.node.events.messages)
    assert here.node.events.strangers == 2 * [("peer", "peer:1")]
    here.node.mesh.set_peers({"peer": PeerTarget("nowhere:1")})
    await channel.send(Kind.MESSAGE, MESSAGES.encode(small("peer", "here")))
    await eventually(lambda: len(here.node.events.messages) == 2)
    assert len(here.node.events.strangers) == 2


async def test_a_peer_has_one_connection_a_lane(autojump_clock: MockClock, here: Here) -> None:
    hello = hello_of("peer", lane=1)
    first = await here.enter(hello)
    second = await here.enter(hello)
    await here.enter(hello_of("peer", lane=0))
    await ends(first)
    assert trio.current_time() < TIMEOUT_SECONDS
    await second.send(Kind.MESSAGE, MESSAGES.encode(small("peer", "here")))
    await eventually(lambda: here.node.events.messages)
    assert len(here.node.mesh._acceptor.lanes_of("peer")) == 2


async def test_the_requests_of_a_peer_are_bounded(autojump_clock: MockClock, here: Here) -> None:
    async def never(peer: str, request: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    here.node.events.answering = never
    for _ in range(MAX_ASKS_PER_PEER):
        channel = await here.enter(hello_of("peer", ASK))
        await channel.send(Kind.REQUEST, b"?")
    await trio.sleep(0.01)
    _, answer = await here.say(hello_of("peer", ASK))
    assert isinstance(answer, Refusal)
    assert answer.code == "busy"
    await here.enter(hello_of("other", ASK))


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.MESSAGE, b"\xff\xff")],
        [(Kind.ANSWER, b"")],
        [(Kind.MESSAGE, MESSAGES.encode(small("somebody", "here")))],
        [(Kind.MESSAGE, MESSAGES.encode(small("peer", "somebody")))],
        [(Kind.HANDSHAKE, encode(hello_of("peer")))],
    ],
)
async def test_what_a_peer_must_not_say_ends_its_lane(
    autojump_clock: MockClock, here: Here, frames: Sequence[tuple[Kind, bytes]]
) -> None:
    channel = await here.enter(hello_of("peer"))
    for kind, body in frames:
        await channel.send(kind, body)
    await ends(channel)
    assert len(here.reasons("garbage")) == 1
    assert here.node.events.messages == []


async def test_a_fault_of_our_own_is_not_hidden(autojump_clock: MockClock) -> None:
    async def bug(messages: Sequence[Message]) -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            here = Here(nursery)
            here.node.events.before_receive = bug
            await nursery.start(here.node.run)
            channel = await here.enter(hello_of("peer"))
            await channel.send(Kind.MESSAGE, MESSAGES.encode(small("peer", "here")))
            await trio.sleep(1)


async def test_a_flood_of_garbage_does_not_fill_the_log(
    autojump_clock: MockClock, here: Here
) -> None:
    async def flood() -> None:
        for number in range(3 * MAX_REPORTS):
            for _ in range(2):
                channel = await here.dial()
                await channel._stream.send_all((10_000 + number).to_bytes(4, "big"))
                await ends(channel)

    await flood()
    assert len(here.reasons("garbage")) == len(set(here.reasons("garbage"))) == MAX_REPORTS
    await trio.sleep(REPEAT_SECONDS)
    await flood()
    assert len(here.reasons("garbage")) == 2 * MAX_REPORTS


# Who may speak with whom.


@asynccontextmanager
async def pair(
    one: Callable[[MemoryNetwork], Node], two: Callable[[MemoryNetwork], Node]
) -> AsyncIterator[tuple[Node, Node]]:
    net = MemoryNetwork()
    nodes = one(net), two(net)
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        yield nodes
        nursery.cancel_scope.cancel()


def node(name: str, **fields: str) -> Callable[[MemoryNetwork], Node]:
    return lambda net: Node(name, net.of(name), **fields)  # type: ignore[arg-type]


async def test_a_waiting_node_is_adopted_before_the_first_message(
    autojump_clock: MockClock,
) -> None:
    async with pair(node("leader"), node("new", cluster="")) as (leader, new):
        leader.knows(new)
        await eventually(lambda: leader.mesh.send(small("leader", "new")))
        await eventually(lambda: new.events.messages)
        assert new.events.adopted[0] == leader.me.cluster_id
        assert new.me.cluster_id == leader.me.cluster_id


async def test_a_waiting_node_may_refuse_to_be_adopted(autojump_clock: MockClock) -> None:
    async with pair(node("leader"), node("new", cluster="")) as (leader, new):
        new.events.refuse_adoption = OtherCluster("new is about to join c9")
        leader.knows(new)
        await eventually(lambda: leader.events.tried)
        assert leader.mesh.status()["new"].error == "new:9700: new is about to join c9"
        assert leader.events.met == []


@pytest.mark.parametrize(
    ("other", "expected_instance", "sentence"),
    [
        (node("two", cluster="c2"), "", "one belongs to the cluster c1 and two to c2"),
        (node("two", instance="new", cluster=""), "old", "remove two and add it again"),
    ],
)
async def test_a_wrong_peer_is_refused_and_both_sides_say_why(
    autojump_clock: MockClock,
    other: Callable[[MemoryNetwork], Node],
    expected_instance: str,
    sentence: str,
) -> None:
    async with pair(node("one"), other) as (one, two):
        one.mesh.set_peers({"two": PeerTarget("two:9700", expected_instance)})
        await eventually(lambda: one.events.tried)
        assert sentence in one.mesh.status()["two"].error
        assert sentence in str(two.events.reported("peer_refused")[0]["reason"])
        assert one.events.met == two.events.adopted == []


async def test_a_wiped_node_that_dials_is_refused(autojump_clock: MockClock) -> None:
    async with pair(node("one"), node("two", instance="new", cluster="")) as (one, two):
        one.mesh.set_peers({"two": PeerTarget("nowhere:1", "old")})
        two.knows(one)
        await eventually(lambda: two.events.tried)
        assert "remove two and add it again" in two.mesh.status()["one"].error


async def test_an_address_that_leads_to_another_node_is_noticed(
    autojump_clock: MockClock,
) -> None:
    async with pair(node("one"), node("two")) as (one, _):
        one.mesh.set_peers({"three": PeerTarget("two:9700"), "four": PeerTarget("one:9700")})
        await eventually(lambda: len(one.events.tried) == 2)
        errors = {peer: status.error for peer, status in one.mesh.status().items()}
        assert errors == {
            "three": "two:9700: three was expected here, but this is two",
            "four": "one:9700: four was expected here, but this is one",
        }
