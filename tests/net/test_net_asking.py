"""Probes and single requests."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from nefia.errors import OtherCluster, OtherNode, OutcomeUnknown, PeerUnreachable, TooLarge
from nefia.net.dialling import MAX_REQUEST_BYTES
from nefia.net.interface import PeerTarget
from tests.net.net_driver import Node
from tests.net.net_memory import MemoryNetwork


@pytest.fixture
async def nodes(nursery: trio.Nursery) -> tuple[MemoryNetwork, Node, Node]:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"))
    for node in (one, two):
        await nursery.start(node.run)
    return net, one, two


Nodes = tuple[MemoryNetwork, Node, Node]


async def test_a_request_is_answered(autojump_clock: MockClock, nodes: Nodes) -> None:
    _, one, two = nodes
    one.knows(two)
    assert await one.mesh.ask("two", b"hi", 5.0) == b"answer to hi"
    assert two.events.requests == [("one", b"hi")]


async def test_a_large_request_and_a_given_address(autojump_clock: MockClock, nodes: Nodes) -> None:
    _, one, _two = nodes
    request = bytes(1_000_000)
    answer = await one.mesh.ask("two", request, 5.0, address="two:9700")
    assert answer == b"answer to " + request


async def test_a_request_that_cannot_be_sent_changes_nothing(
    autojump_clock: MockClock, nodes: Nodes
) -> None:
    net, one, two = nodes
    with pytest.raises(PeerUnreachable, match="no address of two is known"):
        await one.mesh.ask("two", b"hi", 5.0)
    with pytest.raises(PeerUnreachable, match="nowhere:1: no route to host"):
        await one.mesh.ask("two", b"hi", 5.0, address="nowhere:1")
    with pytest.raises(OtherNode, match="three was expected here, but this is two"):
        await one.mesh.ask("three", b"hi", 5.0, address="two:9700")
    with pytest.raises(TooLarge):
        await one.mesh.ask("two", bytes(MAX_REQUEST_BYTES + 1), 5.0, address="two:9700")
    net.cut("one", "two")
    with pytest.raises(PeerUnreachable, match=r"two:9700 did not answer within 5\.0 s"):
        await one.mesh.ask("two", b"hi", 5.0, address="two:9700")
    assert two.events.requests == []


async def test_a_request_without_an_answer_has_an_unknown_outcome(
    autojump_clock: MockClock, nodes: Nodes, nursery: trio.Nursery
) -> None:
    net, one, two = nodes
    one.knows(two)

    async def never(peer: str, request: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    two.events.answering = never
    with pytest.raises(OutcomeUnknown, match="no answer within 5 s"):
        await one.mesh.ask("two", b"first", 5.0)

    async def kill() -> None:
        await trio.sleep(1)
        net.kill("two")

    nursery.start_soon(kill)
    with pytest.raises(OutcomeUnknown, match="closed by the other side"):
        await one.mesh.ask("two", b"second", 5.0)
    assert [request for _, request in two.events.requests] == [b"first", b"second"]


async def test_a_probe_shows_who_answers(autojump_clock: MockClock, nodes: Nodes) -> None:
    _, one, two = nodes
    for expected in ("two", None):
        welcome = await one.mesh.probe("two:9700", expected, 5.0)
        assert welcome.node_id == "two"
        assert welcome.instance_id == two.me.instance_id
        assert welcome.view == two.events.view()


async def test_a_probe_says_why_not(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    net = MemoryNetwork()
    one, two = Node("one", net.of("one")), Node("two", net.of("two"), cluster="c2")
    for node in (one, two):
        await nursery.start(node.run)
    with pytest.raises(OtherNode, match="three was expected here, but this is two"):
        await one.mesh.probe("two:9700", "three", 5.0)
    with pytest.raises(OtherCluster, match="one belongs to the cluster c1 and two to c2"):
        await one.mesh.probe("two:9700", "two", 5.0)
    with pytest.raises(OtherNode, match="both sides are called one"):
        await one.mesh.probe("one:9700", None, 5.0)
    with pytest.raises(PeerUnreachable, match="nothing listens there"):
        await one.mesh.probe("two:9701", "two", 5.0)


async def test_waiting_nodes_may_probe_members_and_be_probed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    member, waiting = Node("member", net.of("member")), Node("new", net.of("new"), cluster="")
    for node in (member, waiting):
        await nursery.start(node.run)
    assert (await waiting.mesh.probe("member:9700", None, 5.0)).cluster_id == "c1"
    assert (await member.mesh.probe("new:9700", "new", 5.0)).cluster_id == ""
    assert waiting.events.adopted == [], "to be asked is not to be adopted"


async def test_a_wiped_node_is_told_so_when_it_probes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    net = MemoryNetwork()
    member = Node("member", net.of("member"))
    wiped = Node("two", net.of("two"), cluster="", instance="new")
    member.mesh.set_peers({"two": PeerTarget("two:9700", "old")})
    await nursery.start(member.run)
    with pytest.raises(OtherNode, match="remove two and add it again"):
        await wiped.mesh.probe("member:9700", None, 5.0)
