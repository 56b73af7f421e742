"""Snapshots on their way: flow, refusals, and other sides that stop, lie or send garbage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from nefia.clock import TrioNodeClock
from nefia.errors import DataDamaged, NefiaError, NotLeader, PeerUnreachable
from nefia.net import transfer
from nefia.net.channel import Channel
from nefia.net.frames import MAX_FRAME_BYTES, Kind
from nefia.net.handshake import SNAPSHOT, encode
from nefia.net.interface import Inlet
from tests.net.net_driver import Node, eventually
from tests.net.net_memory import MemoryNetwork

TIMEOUT_SECONDS = 10.0
DATA = bytes(range(256)) * 400
BLOCK_BYTES = 10_000


class Sink:
    """An `Inlet` that keeps what comes, and may be slow or refuse it at the end."""

    def __init__(self, staged: bytes = b"", total_bytes: int = len(DATA)) -> None:
        self.data = bytearray(staged)
        self.staged_bytes = len(staged)
        self.total_bytes = total_bytes
        self.finishing: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint
        self.pause_seconds = 0.0
        self.finished = False

    async def add(self, data: bytes) -> None:
        await trio.sleep(self.pause_seconds)
        self.data += data
        self.staged_bytes = len(self.data)
        if len(self.data) > self.total_bytes:
            raise DataDamaged("too much")

    async def finish(self) -> None:
        await self.finishing()
        self.finished = True


class Pair:
    """`leader` brings `DATA` to `follower`, whose inlet is `sink`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.net = MemoryNetwork()
        self.leader, self.follower = (
            Node(name, self.net.of(name), transport_timeout_seconds=TIMEOUT_SECONDS)
            for name in ("leader", "follower")
        )
        self.sink = Sink()
        self.offers: list[tuple[str, bytes]] = []
        self.reads: list[int] = []
        self.follower.events.accept = self.accept
        self.nursery = nursery

    async def accept(self, peer: str, offer: bytes) -> Inlet:
        await trio.lowlevel.checkpoint()
        self.offers.append((peer, offer))
        return self.sink

    async def read(self, offset: int, size_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads.append(offset)
        return DATA[offset : offset + size_bytes]

    async def send(self) -> None:
        await self.leader.mesh.send_snapshot("follower", b"offer", len(DATA), self.read)


@pytest.fixture
async def pair(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(transfer, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(transfer, "WINDOW_BYTES", 3 * BLOCK_BYTES)
    pair = Pair(nursery)
    await nursery.start(pair.leader.run)
    await nursery.start(pair.follower.run)
    pair.leader.knows(pair.follower)
    pair.follower.knows(pair.leader)
    return pair


async def test_the_data_arrive(pair: Pair, autojump_clock: MockClock) -> None:
    await pair.send()
    assert pair.offers == [("leader", b"offer")]
    assert bytes(pair.sink.data) == DATA
    assert pair.sink.finished


async def test_it_begins_where_the_follower_has_come_to(
    pair: Pair, autojump_clock: MockClock
) -> None:
    pair.sink = Sink(DATA[:70_001])
    await pair.send()
    assert pair.reads[0] == 70_001
    assert bytes(pair.sink.data) == DATA


async def test_what_is_there_already_is_not_sent(pair: Pair, autojump_clock: MockClock) -> None:
    pair.sink = Sink(DATA)
    await pair.send()
    assert pair.reads == []
    assert pair.sink.finished


async def test_no_more_than_a_window_is_on_its_way(pair: Pair, autojump_clock: MockClock) -> None:
    pair.sink.pause_seconds = 1.0
    with trio.move_on_after(0.5):
        await pair.send()
    assert max(pair.reads) < 3 * BLOCK_BYTES


async def test_a_long_end_is_no_standstill(pair: Pair, autojump_clock: MockClock) -> None:
    async def take_long() -> None:
        await trio.sleep(10 * TIMEOUT_SECONDS)

    pair.sink.finishing = take_long
    await pair.send()
    assert pair.sink.finished


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_refusal_is_told(pair: Pair, autojump_clock: MockClock, at_once: bool) -> None:
    async def refuse(*_: object) -> Inlet:
        await trio.lowlevel.checkpoint()
        raise NotLeader("not you") if at_once else DataDamaged("spoilt")

    if at_once:
        pair.follower.events.accept = refuse
    else:
        pair.sink.finishing = refuse
    with pytest.raises(NotLeader if at_once else DataDamaged):
        await pair.send()


async def test_a_follower_that_stands_still_is_noticed(
    pair: Pair, autojump_clock: MockClock
) -> None:
    pair.sink.pause_seconds = 5 * TIMEOUT_SECONDS
    began = trio.current_time()
    with pytest.raises(PeerUnreachable, match="stands still"):
        await pair.send()
    assert trio.current_time() - began < 2 * TIMEOUT_SECONDS


async def test_a_cut_network_is_noticed(pair: Pair, autojump_clock: MockClock) -> None:
    pair.sink.pause_seconds = 0.1
    pair.nursery.start_soon(_after, 0.3, lambda: pair.net.cut("leader", "follower"))
    with pytest.raises(PeerUnreachable):
        await pair.send()
    pair.net.heal()
    await trio.sleep(3 * TIMEOUT_SECONDS)
    pair.sink = Sink(bytes(pair.sink.data))
    await pair.send()
    assert bytes(pair.sink.data) == DATA


async def _after(seconds: float, act: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    act()


async def test_data_that_end_too_soon_are_an_error(pair: Pair, autojump_clock: MockClock) -> None:
    async def nothing(offset: int, size_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return b""

    with pytest.raises(PeerUnreachable, match="end before"):
        await pair.leader.mesh.send_snapshot("follower", b"offer", len(DATA), nothing)


async def test_nobody_knows_that_peer(pair: Pair, autojump_clock: MockClock) -> None:
    with pytest.raises(PeerUnreachable, match="no address"):
        await pair.leader.mesh.send_snapshot("stranger", b"offer", 1, pair.read)


async def test_a_new_one_ends_the_old(pair: Pair, autojump_clock: MockClock) -> None:
    """One at a time is taken in: the leader has begun anew, or there is another."""
    pair.sink.pause_seconds = 1.0
    ended: list[NefiaError] = []

    async def first() -> None:
        try:
            await pair.send()
        except NefiaError as error:
            ended.append(error)

    pair.nursery.start_soon(first)
    await eventually(lambda: pair.sink.data)
    pair.sink = Sink()
    await pair.send()
    await eventually(lambda: ended)
    assert bytes(pair.sink.data) == DATA


# What comes from outside.


async def outsider(pair: Pair) -> Channel:
    stream = await pair.net.of("leader").dial("follower:9700")
    channel = Channel(stream, TrioNodeClock(), MAX_FRAME_BYTES)
    await channel.send(Kind.HANDSHAKE, encode(pair.leader.hello(SNAPSHOT)))
    await channel.receive_one()
    return channel


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.MESSAGE, Kind.HANDSHAKE])
async def test_what_does_not_belong_there_ends_it(
    pair: Pair, autojump_clock: MockClock, kind: Kind
) -> None:
    channel = await outsider(pair)
    await channel.send(kind, b"x")
    await eventually(lambda: pair.follower.events.reported("garbage"))
    await channel.close()
    channel = await outsider(pair)
    await channel.send(Kind.REQUEST, b"offer")
    await channel.receive_one()
    await channel.send(Kind.GOODBYE if kind is Kind.DATA else kind, b"x")
    await eventually(lambda: len(pair.follower.events.reported("garbage")) == 2)
    await channel.close()


async def test_more_than_was_offered_is_refused(pair: Pair, autojump_clock: MockClock) -> None:
    channel = await outsider(pair)
    await channel.send(Kind.REQUEST, b"offer")
    await channel.receive_one()
    await channel.send(Kind.DATA, DATA + b"x")
    answer = await channel.receive_one()
    assert b"data_damaged" in answer.body
    await channel.close()


async def test_who_says_nothing_is_cut(pair: Pair, autojump_clock: MockClock) -> None:
    channel = await outsider(pair)
    await trio.sleep(TIMEOUT_SECONDS + 1)
    assert pair.follower.mesh._acceptor._inbound == [
        each for each in pair.follower.mesh._acceptor._inbound if each.hello.purpose != SNAPSHOT
    ]
    await channel.close()
