"""The crash fast path (SPEC 5): who is lost, who only left, and who is merely silent."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from nefia.net.interface import PeerTarget
from nefia.net.link import STABLE_SECONDS
from nefia.net.mesh import GOODBYE_SECONDS
from tests.net.net_driver import Node, eventually, large
from tests.net.net_memory import MemoryNetwork

FEW_MILLISECONDS = 0.005


@pytest.fixture
async def cluster(nursery: trio.Nursery) -> tuple[MemoryNetwork, Node, Node, Node]:
    net = MemoryNetwork()
    one, two, three = nodes = [Node(name, net.of(name)) for name in ("one", "two", "three")]
    for node in nodes:
        node.knows(*nodes)
        await nursery.start(node.run)
    await eventually(lambda: all(lanes_up(node) == 4 for node in nodes))
    return net, one, two, three


def lanes_up(node: Node) -> int:
    return sum(status.lanes_up for status in node.mesh.status().values())


def kill(net: MemoryNetwork, node: Node) -> None:
    net.kill(node.name)
    node.scope.cancel()


Cluster = tuple[MemoryNetwork, Node, Node, Node]


@pytest.mark.parametrize("age_seconds", [0.001, 0.5, 30.0])
async def test_a_killed_process_is_lost_within_milliseconds(
    autojump_clock: MockClock, cluster: Cluster, age_seconds: float
) -> None:
    net, one, two, three = cluster
    await trio.sleep(age_seconds)
    killed_at = trio.current_time()
    kill(net, one)
    await trio.sleep(20)
    for survivor in (two, three):
        ((peer, lost_at),) = survivor.events.lost
        assert peer == "one"
        assert lost_at - killed_at <= (FEW_MILLISECONDS if age_seconds > STABLE_SECONDS else 0.050)
    assert one.events.lost == []


async def test_each_death_is_told_once(
    autojump_clock: MockClock, nursery: trio.Nursery, cluster: Cluster
) -> None:
    net, one, two, three = cluster
    kill(net, one)
    await trio.sleep(10)
    reborn = Node("one", net.of("one")).knows(two, three)
    await nursery.start(reborn.run)
    await eventually(lambda: lanes_up(two) == 4 and lanes_up(reborn) == 4)
    assert [peer for peer, _ in two.events.lost] == ["one"]
    await trio.sleep(10)
    kill(net, reborn)
    await trio.sleep(10)
    assert [peer for peer, _ in two.events.lost] == ["one", "one"]
    assert reborn.events.lost == []


async def test_a_restart_too_fast_for_a_refusal_is_a_loss_too(
    autojump_clock: MockClock, nursery: trio.Nursery, cluster: Cluster
) -> None:
    net, one, two, _three = cluster
    await trio.sleep(5)
    kill(net, one)
    reborn = Node("one", net.of("one"))
    await nursery.start(reborn.run)
    await eventually(lambda: two.events.lost)
    await trio.sleep(5)
    assert [peer for peer, _ in two.events.lost] == ["one"]
    assert all("nothing listens" not in str(r) for r in two.events.reports)


async def test_a_goodbye_is_no_loss(autojump_clock: MockClock, cluster: Cluster) -> None:
    net, one, two, three = cluster
    await one.mesh.goodbye()
    kill(net, one)
    await trio.sleep(20)
    assert two.events.lost == three.events.lost == []
    assert two.mesh.status()["one"].said_goodbye


async def test_a_goodbye_reaches_those_who_only_listen_or_only_speak(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    three = Node("three", net.of("three"))
    one.knows(two)
    three.knows(one)
    two.knows(one, three)
    for node in (one, two, three):
        await nursery.start(node.run)
    await eventually(lambda: lanes_up(one) == 2 and lanes_up(three) == 2 and lanes_up(two) == 4)
    await trio.sleep(2)
    await one.mesh.goodbye()
    kill(net, one)
    await trio.sleep(5)
    assert two.events.lost == three.events.lost == []


async def test_after_a_goodbye_no_lane_is_made_in_either_direction(
    autojump_clock: MockClock, nursery: trio.Nursery, cluster: Cluster
) -> None:
    net, one, two, _three = cluster
    await trio.sleep(2)
    await one.mesh.goodbye()
    for stream in net.between("one", "two") + net.between("two", "one"):
        stream.reset()
    dials = len(net.dials)
    await trio.sleep(5)
    assert not [dial for dial in net.dials[dials:] if dial[0] == "one"]
    assert two.mesh.status()["one"].error == "one:9700: one is shutting down"
    assert lanes_up(one) == 2, "those to three"
    assert two.events.lost == []


async def test_a_goodbye_waits_for_a_silent_peer_only_so_long(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    net, one, _two, _three = cluster
    net.cut("one", "two")
    assert one.mesh.send(large("one", "two"))
    await trio.sleep(0.01)
    began = trio.current_time()
    await one.mesh.goodbye()
    assert trio.current_time() - began == pytest.approx(GOODBYE_SECONDS)


async def test_a_cut_network_is_no_loss(autojump_clock: MockClock, cluster: Cluster) -> None:
    net, one, two, three = cluster
    net.cut("one", "two")
    net.cut("one", "three")
    await trio.sleep(30)
    assert lanes_up(one) == 0
    assert one.events.lost == two.events.lost == three.events.lost == []


async def test_a_lost_lane_is_no_loss(autojump_clock: MockClock, cluster: Cluster) -> None:
    net, one, two, _three = cluster
    await trio.sleep(2)
    net.between("two", "one")[0].reset()
    await eventually(lambda: lanes_up(two) == 4)
    await trio.sleep(2)
    assert one.events.lost == two.events.lost == []


async def test_a_port_that_refuses_while_lanes_live_is_no_loss(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    net, one, two, _three = cluster
    await trio.sleep(2)
    net.listeners["one:9700"].hub.listeners.pop("one:9700")
    net.between("two", "one")[0].reset()
    await trio.sleep(5)
    assert two.mesh.status()["one"].lanes_up == 1
    assert two.events.lost == []
    # The last ones end when the refusal is long ago: it is dialled once more, at once.
    await trio.sleep(0.4)
    killed_at = trio.current_time()
    kill(net, one)
    await eventually(lambda: two.events.lost)
    assert two.events.lost[0][1] - killed_at <= 0.025


@pytest.mark.parametrize("goodbye", [False, True])
async def test_who_only_ever_dialled_us_is_lost_or_leaves_like_others(
    autojump_clock: MockClock, nursery: trio.Nursery, goodbye: bool
) -> None:
    """Its address refuses us all along, and it was connected before it became our peer."""
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    one.knows(two)
    await nursery.start(two.run)
    await nursery.start(one.run)
    await eventually(lambda: lanes_up(one) == 2)
    two.mesh.set_peers({"one": PeerTarget("one:9999")})
    await trio.sleep(30)
    assert two.events.lost == []
    if goodbye:
        await one.mesh.goodbye()
        await trio.sleep(0.01)
    killed_at = trio.current_time()
    kill(net, one)
    await trio.sleep(5)
    assert [peer for peer, _ in two.events.lost] == ([] if goodbye else ["one"])
    assert all(at - killed_at <= FEW_MILLISECONDS for _, at in two.events.lost)
