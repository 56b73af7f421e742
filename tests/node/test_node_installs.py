"""Snapshots that are brought to nodes which need them, whatever comes between (5.3)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from attrs import evolve

from nefia.net import transfer
from tests.node.cluster import SETTINGS, Cluster
from tests.node.snapshots import (
    BY_HAND,
    FEW,
    base_index,
    fill,
    held,
    staged_bytes,
    with_snapshots,
)

BLOCK_BYTES = 4_096


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(transfer, "WINDOW_BYTES", 4 * BLOCK_BYTES)


async def behind(cluster: Cluster) -> None:
    """n3 misses what the others have compacted away."""
    await cluster.form("n1", "n2", "n3")
    cluster.crash("n3")
    await fill(cluster)
    await cluster.ask("n1", "snapshot")
    await cluster.ask("n2", "snapshot")
    await cluster.until(lambda: base_index(cluster, "n1") > 10 and base_index(cluster, "n2") > 10)


async def test_who_is_far_behind_gets_one(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await behind(cluster)
    assert cluster.disks["n3"].last_index < base_index(cluster, "n1")
    await cluster.start("n3")
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1
    assert base_index(cluster, "n3") == held(cluster, "n1")[0] == held(cluster, "n3")[0]
    await cluster.restart("n3")
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1


async def test_a_new_node_gets_one(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await cluster.form("n1")
    await fill(cluster)
    await cluster.ask("n1", "snapshot")
    await cluster.start("n2")
    added = await cluster.ask("n1", "add_peer", id="n2", addr="n2:9700")
    assert added["member"]["voter"]
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1
    assert base_index(cluster, "n2") > 10


async def test_it_catches_up_under_constant_load(nursery: trio.Nursery) -> None:
    """Snapshots are taken and the log compacted again and again while one is on its way."""
    cluster = with_snapshots(nursery, evolve(FEW, threshold=10, interval=0.5))
    await behind(cluster)
    taken = held(cluster, "n1")[0]
    pushing = trio.CancelScope()

    async def push() -> None:
        with pushing:
            while True:
                await fill(cluster, 1)

    cluster.disks["n3"].write_latency = lambda: 0.08  # one takes seconds
    await cluster.start("n3")
    nursery.start_soon(push)
    leader = cluster.up["n1"].raft
    n3 = cluster.up["n3"].raft

    def is_level() -> bool:
        assert leader.leader is not None
        return leader.log.last_index - leader.leader.progress["n3"].match_index < 64

    await cluster.until(lambda: n3.log.base_index > 10, 60)
    assert held(cluster, "n1")[0] > taken + 20
    await cluster.until(is_level, 60)
    pushing.cancel()
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1
    await trio.sleep(10)
    await fill(cluster, 30)
    await cluster.until(lambda: base_index(cluster, "n1") > leader.log.last_index - 40)


async def halfway(cluster: Cluster) -> None:
    cluster.disks["n3"].write_latency = lambda: 0.05
    await cluster.start("n3")
    await cluster.until(lambda: staged_bytes(cluster, "n3") > 10 * BLOCK_BYTES)


def offered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much was staged already at the beginning of each transfer."""
    found: list[int] = []
    tell = transfer._tell

    async def watched(end: Any, answer: Any) -> None:
        if found and found[-1] < 0:
            found[-1] = answer.staged_bytes
        await tell(end, answer)

    receive = transfer.receive_snapshot

    async def begun(*args: Any) -> None:
        found.append(-1)
        await receive(*args)

    monkeypatch.setattr(transfer, "_tell", watched)
    monkeypatch.setattr("nefia.net.acceptor.receive_snapshot", begun)
    return found


async def test_a_broken_connection_is_gone_on_with(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun_at = offered(monkeypatch)
    cluster = with_snapshots(nursery, BY_HAND)
    await behind(cluster)
    await halfway(cluster)
    for stream in cluster.net.between("n1", "n3"):
        stream.reset()
    await cluster.until(cluster.is_calm)
    assert len(begun_at) == 2
    assert begun_at[0] == 0
    assert begun_at[1] >= 10 * BLOCK_BYTES
    assert len(cluster.digests()) == 1


async def test_a_restarted_follower_goes_on_with_what_it_has(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun_at = offered(monkeypatch)
    cluster = with_snapshots(nursery, BY_HAND)
    await behind(cluster)
    await halfway(cluster)
    await cluster.restart("n3")
    await cluster.until(cluster.is_calm)
    assert begun_at[-1] > 0
    assert len(cluster.digests()) == 1


async def test_another_leader_begins_with_its_own(nursery: trio.Nursery) -> None:
    """All or nothing: what n1 has begun to bring is never mixed with what n2 brings."""
    cluster = with_snapshots(nursery, BY_HAND)
    await behind(cluster)
    await halfway(cluster)
    cluster.crash("n1")
    assert await cluster.new_leader("n1") == "n2"
    await cluster.until(cluster.is_calm)
    assert cluster.up["n3"].raft.leader_id == "n2"
    assert base_index(cluster, "n3") in held(cluster, "n2")
    assert cluster.disks["n3"].shelf.staged is None
    await cluster.restart("n1")
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1


async def test_a_follower_that_stands_still_is_given_up_and_tried_again(
    nursery: trio.Nursery,
) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await behind(cluster)
    await halfway(cluster)
    sender = cluster.up["n1"].node._snapshotting._sender
    assert sender._scopes
    cluster.pause("n3")
    await cluster.until(lambda: not sender._scopes, 2 * SETTINGS.transport_timeout)
    assert sender.held() == float("inf")
    cluster.resume("n3")
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2])
async def test_a_follower_that_dies_around_the_install(
    nursery: trio.Nursery, seconds: float
) -> None:
    """After the data are whole: before, while and after the log begins anew behind them."""
    cluster = with_snapshots(nursery, BY_HAND)
    await behind(cluster)
    cluster.disks["n3"].write_latency = lambda: 0.05
    await cluster.start("n3")
    await cluster.until(lambda: held(cluster, "n3"))
    await trio.sleep(seconds)
    await cluster.restart("n3")
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1


async def test_a_damaged_snapshot_is_not_installed(nursery: trio.Nursery) -> None:
    """The leader finds out, takes another, and brings that."""
    cluster = with_snapshots(nursery, BY_HAND)
    await behind(cluster)
    damaged = held(cluster, "n1")[0]
    cluster.disks["n1"].shelf.damage(Random(1))
    await fill(cluster, 1)
    await cluster.start("n3")
    await cluster.until(cluster.is_calm)
    assert damaged not in held(cluster, "n1")
    assert damaged not in held(cluster, "n3")
    assert len(cluster.digests()) == 1
