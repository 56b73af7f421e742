"""What a node does and says that belongs to no cluster, and what it lets others do to it."""

from __future__ import annotations

import pytest
import structlog
import trio
from attrs import evolve
from structlog.testing import capture_logs

from nefia.net.link import LOOK_SECONDS
from nefia.raft.entries import SnapshotMeta
from nefia.raft.messages import InstallSnapshot
from tests.node.cluster import Cluster


async def test_a_waiting_node_says_how_to_be_added(nodes: Cluster) -> None:
    waiting = await nodes.start("n1")
    shown = waiting.node.status()
    assert shown["state"] == "Uninitialized"
    assert "nefia cluster add-peer --id n1 --addr n1:9700" in shown["hint"]
    assert "nefia cluster init" in shown["hint"]


async def test_a_waiting_node_finds_the_cluster_of_its_peers(cluster: Cluster) -> None:
    waiting = await cluster.start("n4", peers=("gone", "n2"))
    await trio.sleep(6)
    status = waiting.node.status()
    cluster_id = cluster.up["n1"].node.status()["cluster_id"]
    for word in (cluster_id, "n1 at n1:9700", "add-peer --id n4 --addr n4:9700"):
        assert word in status["hint"]
    assert status["state"] == "Uninitialized"
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}, "nothing else comes of it"
    await cluster.ask("n1", "transfer_leader", to="n3")
    await trio.sleep(6)
    assert "n3 at n3:9700" in waiting.node.status()["hint"]
    await cluster.ask("n3", "add_peer", id="n4", addr="n4:9700")
    await cluster.until(cluster.is_calm)
    assert "hint" not in waiting.node.status()


async def test_a_snapshot_message_does_no_harm(cluster: Cluster) -> None:
    """Nothing compacts a log yet, so that no node sends one; a newer version may."""
    term, index = cluster.up["n1"].raft.term, cluster.up["n1"].raft.log.last_index + 100
    configuration = cluster.up["n1"].raft.log.configuration
    message = InstallSnapshot(
        sender="n1",
        recipient="n2",
        term=term,
        snapshot=SnapshotMeta(index, term, configuration, index),
        round=1,
    )
    await cluster.up["n2"].node.receive([message])
    await trio.sleep(1)
    await cluster.push("n1", 1)
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1


async def test_wall_clocks_that_differ_are_told(cluster: Cluster) -> None:
    """WireGuard's peers refuse a handshake that is older than the last they have seen (SPEC 9)."""
    node = cluster.up["n1"].node
    welcome = node._mesh.met("n2")
    assert welcome
    structlog.reset_defaults()
    with capture_logs() as logs:
        node.peer_met("n2", evolve(welcome, utc_ms=welcome.utc_ms + 50))
        node.peer_seen(evolve(welcome, utc_ms=welcome.utc_ms - 3_600_000))
        assert not [each for each in logs if each["event"] == "clocks_differ"], "it may be late"
        for _ in range(2):
            node.peer_seen(evolve(welcome, utc_ms=welcome.utc_ms - 3_600_000))
    (warning,) = [each for each in logs if each["event"] == "clocks_differ"]
    assert warning["peer"] == "n2"
    assert warning["by_ms"] == pytest.approx(-3_600_000, abs=60_000)


async def test_reloaded_settings_are_compared(cluster: Cluster) -> None:
    """At once with what others have said last, and before long with what they say now."""
    structlog.reset_defaults()
    nodes = {name: process.node for name, process in cluster.up.items()}
    with capture_logs() as logs:
        nodes["n1"].take_fingerprint("reloaded")
        nodes["n2"].take_fingerprint("reloaded")
        assert "settings" in nodes["n2"].status()["warning"], "it has not heard of n1's yet"
        await trio.sleep(LOOK_SECONDS + 1)
    assert "warning" not in nodes["n2"].status()
    assert "settings of this node differ from those of n1" in nodes["n3"].status()["warning"]
    told = [each["peer"] for each in logs if each["event"] == "settings_differ"]
    assert sorted(told) == ["n1", "n2", "n3", "n3"], "n3 by both others, and these by it"
