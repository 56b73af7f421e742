"""What a node does and says that belongs to no cluster, and what it lets others do to it."""

from __future__ import annotations

import trio

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
