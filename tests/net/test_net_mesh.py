"""Lanes between meshes in memory: what is sent arrives, and what breaks is mended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock

from nefia.net.channel import MAX_QUEUE_FRAMES
from nefia.net.interface import MAX_ATTEMPT_SECONDS, PeerTarget
from nefia.net.link import LOOK_SECONDS, MAX_BACKOFF_SECONDS
from nefia.raft.messages import AppendEntries, Message, RequestVote, TimeoutNow, VoteReply
from tests.net.net_driver import Node, eventually, large, small
from tests.net.net_memory import MemoryNetwork

LANES = 2


async def started(nursery: trio.Nursery, *nodes: Node) -> None:
    """Run them all, knowing each other, until every lane is up."""
    for node in nodes:
        node.knows(*nodes)
        await nursery.start(node.run)
    await eventually(lambda: all(up(node) == LANES * (len(nodes) - 1) for node in nodes))


def up(node: Node) -> int:
    return sum(status.lanes_up for status in node.mesh.status().values())


def lane_dials(net: MemoryNetwork, *nodes: Node) -> int:
    return len(net.dials) - sum(len(node.events.seen) for node in nodes)


def sent_by(node: Node, sender: str) -> list[int]:
    return [m.term for m in node.events.messages if m.sender == sender]


async def test_messages_arrive_both_ways_and_in_order(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    for term in range(1, 101):
        assert one.mesh.send(small("one", "two", term))
        assert two.mesh.send(small("two", "one", term))
    await eventually(lambda: len(one.events.messages) == len(two.events.messages) == 100)
    assert sent_by(two, "one") == sent_by(one, "two") == list(range(1, 101))
    assert one.events.met == ["two"]
    assert one.events.tried == ["two"]


async def test_a_peer_is_asked_who_it_is_by_now(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Its settings change with a reload, its clock by itself; no lane is made anew for that."""
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    two.me = evolve(two.me, settings="reloaded", utc_ms=7)
    await trio.sleep(LOOK_SECONDS + 1)
    welcome = one.mesh.met("two")
    assert welcome is not None
    assert (welcome.settings, welcome.utc_ms) == ("reloaded", 7)
    assert one.events.seen == [welcome]
    assert one.events.met == ["two"]
    assert one.events.broken == []
    two.me = evolve(two.me, incarnation="of another process", settings="its")
    await trio.sleep(LOOK_SECONDS)
    assert one.mesh.met("two") == welcome, "the lanes go to that one still"


async def test_what_is_sent_together_is_heard_together(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    batches: list[int] = []

    async def count(messages: Sequence[Message]) -> None:
        batches.append(len(messages))

    two.events.before_receive = count
    await started(nursery, one, two)
    for term in range(1, 101):
        one.mesh.send(small("one", "two", term))
    await eventually(lambda: sum(batches) == 100)
    assert batches == [100]


async def test_without_a_lane_a_message_is_dropped_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    assert not one.mesh.send(small("one", "two"))
    one.knows(two)
    assert not one.mesh.send(small("one", "two"))
    await nursery.start(one.run)
    await eventually(lambda: one.events.tried)
    assert not one.mesh.send(small("one", "two"))
    assert one.mesh.status()["two"].error == "two:9700: nothing listens there"


@pytest.mark.parametrize(("max_pool", "lanes"), [(1, 1), (2, 2), (3, 2)])
async def test_a_smaller_pool_has_fewer_lanes(
    autojump_clock: MockClock, nursery: trio.Nursery, max_pool: int, lanes: int
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one"), max_pool=max_pool), Node("two", net.of("two"))
    one.knows(two)
    await nursery.start(two.run)
    await nursery.start(one.run)
    await eventually(lambda: up(one) == lanes)
    assert one.mesh.send(large("one", "two", 1))
    assert one.mesh.send(small("one", "two", 2))
    await eventually(lambda: len(two.events.messages) == 2)
    assert len(net.between("one", "two")) == lanes


async def test_entries_that_wait_do_not_delay_a_heartbeat(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    disk = trio.Event()

    async def slow_disk(messages: Sequence[Message]) -> None:
        if any(isinstance(m, AppendEntries) for m in messages):
            await disk.wait()

    two.events.before_receive = slow_disk
    await started(nursery, one, two)
    for term in range(1, 5):
        assert one.mesh.send(large("one", "two", term))
    await trio.sleep(0.1)
    assert one.mesh.send(small("one", "two", 99))
    await eventually(lambda: sent_by(two, "one") == [99])
    disk.set()
    await eventually(lambda: sent_by(two, "one") == [99, 1, 2, 3, 4])


async def test_a_slow_listener_keeps_its_lanes_and_bounds_what_waits(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    """Back-pressure reaches the sender, which drops; nobody takes slowness for a dead peer."""
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    disk = trio.Event()

    async def wait(messages: Sequence[Message]) -> None:
        await disk.wait()

    two.events.before_receive = wait
    await started(nursery, one, two)
    queued = 0
    while one.mesh.send(large("one", "two", queued + 1)):
        queued += 1
        await trio.sleep(0.01)
        assert queued < 100, "the queue has no bound"
    assert queued > 10
    await trio.sleep(60)
    assert one.events.broken == []
    assert lane_dials(net, one, two) == 2 * LANES
    disk.set()
    await eventually(lambda: sent_by(two, "one") == list(range(1, queued + 1)))


async def test_the_number_of_waiting_frames_is_bounded(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    results = [one.mesh.send(small("one", "two")) for _ in range(MAX_QUEUE_FRAMES + 1)]
    assert results.count(False) >= 1
    assert results.count(True) >= MAX_QUEUE_FRAMES - 10


async def test_idle_lanes_stay_up(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    await trio.sleep(300)
    assert lane_dials(net, one, two) == 2 * LANES
    assert one.events.broken == two.events.broken == []


async def test_a_broken_lane_is_dialled_again_at_once_and_nobody_is_lost(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    await trio.sleep(5)
    broken_at = trio.current_time()
    for stream in net.between("one", "two"):
        stream.reset()
    await eventually(lambda: len(one.events.broken) == LANES and up(one) == LANES)
    assert trio.current_time() - broken_at < 0.010
    assert one.events.broken == ["two", "two"]
    assert two.events.broken == []
    assert one.events.lost == two.events.lost == []
    assert one.events.reported("peer_disconnected") == [{"peer": "two", "error": "reset"}]


@pytest.mark.parametrize("both", [True, False])
async def test_a_silent_network_cuts_the_lanes_and_loses_nobody(
    autojump_clock: MockClock, nursery: trio.Nursery, both: bool
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    net.cut("one", "two", both=both)
    await trio.sleep(4)
    assert one.events.broken == ["two"] * LANES
    assert not one.mesh.send(small("one", "two"))
    await trio.sleep(60)
    assert one.events.lost == two.events.lost == []
    assert "did not answer within 2.0 s" in one.mesh.status()["two"].error
    healed_at = trio.current_time()
    net.heal()
    await eventually(lambda: up(one) == up(two) == LANES)
    assert trio.current_time() - healed_at <= MAX_ATTEMPT_SECONDS
    assert one.events.lost == two.events.lost == []


async def test_an_unreachable_peer_is_dialled_ever_more_rarely(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one = Node("one", net.of("one"))
    one.mesh.set_peers({"two": PeerTarget("two:9700"), "far": PeerTarget("nowhere:1")})
    await nursery.start(one.run)
    await trio.sleep(0.2)
    early = len(net.dials)
    assert 2 * LANES <= early <= 8 * LANES
    await trio.sleep(60)
    assert 60 * LANES <= len(net.dials) - early <= 125 * LANES
    assert sorted(one.events.tried) == ["far", "two"]
    told = {str(r["error"]) for r in one.events.reported("peer_unreachable")}
    assert told == {"two:9700: nothing listens there", "nowhere:1: no route to host"}
    assert len(one.events.reported("peer_unreachable")) == 2, "the same again is no news"


async def test_a_peer_that_dials_us_is_dialled_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    one.knows(two)
    two.knows(one)
    await nursery.start(one.run)
    await trio.sleep(60.1)
    began = trio.current_time()
    await nursery.start(two.run)
    await eventually(lambda: up(one) == LANES)
    assert trio.current_time() - began < MAX_BACKOFF_SECONDS / 10


async def test_a_peer_that_ends_every_connection_is_not_dialled_without_pause(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    """Here because our messages are not its own: each lane is cut as soon as it is up."""
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    one.knows(two)
    await nursery.start(two.run)
    await nursery.start(one.run)
    with trio.move_on_after(30):
        while True:
            one.mesh.send(small("somebody else", "two"))
            await trio.sleep(0.001)
    assert len(net.dials) <= 80 * LANES
    assert two.events.messages == []
    assert {r["reason"] for r in two.events.reported("garbage")} == {
        "a message in the name of somebody else from one"
    }


async def test_a_message_for_somebody_else_ends_the_lane(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    wrong = small("one", "three")
    link = one.mesh._links["two"]
    assert link.send(wrong)
    await eventually(lambda: one.events.broken)
    assert two.events.reported("garbage")[0]["reason"] == "a message of one for three"


async def test_peers_come_move_and_go(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await nursery.start(one.run)
    await nursery.start(two.run)
    one.knows(one, two)
    await eventually(lambda: up(one) == LANES)
    assert set(one.mesh.status()) == {"two"}, "a node is no peer of its own"

    one.knows(one, two)
    await trio.sleep(1)
    assert len(net.dials) == LANES, "the same again changes nothing"

    two.scope.cancel()
    moved = Node("two", net.of("two"), address="two:9800")
    await nursery.start(moved.run)
    one.knows(moved)
    await eventually(lambda: up(one) == LANES)
    assert one.mesh.send(small("one", "two"))
    await eventually(lambda: moved.events.messages)

    one.mesh.set_peers({})
    await eventually(lambda: not net.between("one", "two"))
    assert not one.mesh.send(small("one", "two"))
    assert one.mesh.status() == {}


async def test_recording_the_instance_that_is_met_disturbs_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    one.knows(two, instances=False)
    await nursery.start(two.run)
    await nursery.start(one.run)
    await eventually(lambda: up(one) == LANES)
    one.knows(two, instances=True)
    await trio.sleep(10)
    assert len(net.dials) == LANES


async def test_of_another_data_directory_everything_is_heard_but_answers(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    """A vote or an acknowledgement by who has forgotten its promises must not count (SPEC 2)."""
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    one.knows(two, instances=False)
    two.knows(one)
    await nursery.start(two.run)
    await nursery.start(one.run)
    await eventually(lambda: up(one) == up(two) == LANES)

    async def heard() -> list[type[Message]]:
        """What `one` hears when `two` says each of these."""
        one.events.messages.clear()
        for message in (vote("two", "one"), answer("two", "one"), small("two", "one")):
            assert two.mesh.send(message)
        await trio.sleep(1)
        return [type(message) for message in one.events.messages]

    assert await heard() == [RequestVote, VoteReply, TimeoutNow]
    one.mesh.set_peers({"two": PeerTarget(two.address, "the recorded one")})
    assert await heard() == [RequestVote, TimeoutNow]


def vote(sender: str, recipient: str) -> RequestVote:
    return RequestVote(
        sender=sender, recipient=recipient, term=1, last_log_index=1, last_log_term=1
    )


def answer(sender: str, recipient: str) -> VoteReply:
    return VoteReply(sender=sender, recipient=recipient, term=1, granted=True)


async def test_status_tells_since_when(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    await started(nursery, one, two)
    connected_at = trio.current_time()
    await trio.sleep(7)
    status = one.mesh.status()["two"]
    assert (status.lanes_up, status.lane_count, status.error) == (LANES, LANES, "")
    assert status.since == pytest.approx(connected_at, abs=0.1)
    net.kill("two")
    two.scope.cancel()
    await trio.sleep(7)
    status = one.mesh.status()["two"]
    assert (status.lanes_up, status.error) == (0, "two:9700: nothing listens there")
    assert status.since == pytest.approx(connected_at + 7, abs=0.1)


async def test_two_nodes_that_cut_each_other_do_not_spin(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Each accepted lane makes a node dial back, which must not go round and round."""
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    one.knows(two)
    two.knows(one)
    for node in (one, two):
        await nursery.start(node.run)
    with trio.move_on_after(30):
        while True:
            for stream in net.between("one", "two") + net.between("two", "one"):
                stream.reset()
            await trio.sleep(0.001)
    assert len(net.dials) <= 2 * 80 * LANES
    assert one.events.lost == two.events.lost == []
