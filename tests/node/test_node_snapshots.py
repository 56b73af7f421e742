"""Snapshots of real nodes: taken, compacted behind, begun with, restored (5)."""

from __future__ import annotations

from contextlib import ExitStack
from io import BytesIO
from random import Random
from typing import Any

import pytest
import trio
from attrs import evolve

from nefia.admin.restoring import Step, encode_step, steps
from nefia.errors import ChangeInProgress, Conflict, DataDamaged, NefiaError, NotInitialized
from nefia.node.snapshotter import SnapshotSettings
from nefia.raft.options import Options
from nefia.state.happenings import Happening
from nefia.storage.snapshot_format import read_records
from tests.node.cluster import SETTINGS, Cluster
from tests.node.snapshots import (
    BY_HAND,
    FEW,
    TRAILING,
    base_index,
    fill,
    held,
    tasks,
    with_snapshots,
)

# Taking them.


async def test_one_is_taken_when_enough_was_applied(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, FEW)
    await cluster.form("n1", "n2", "n3")
    await fill(cluster, 50)
    await cluster.until(lambda: all(base_index(cluster, name) > 30 for name in cluster.up))
    for name in cluster.up:
        newest = held(cluster, name)[0]
        assert base_index(cluster, name) == newest - TRAILING
        assert len(held(cluster, name)) <= FEW.retain
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1
    before = tasks(cluster, "n1")
    taken = {name: held(cluster, name) for name in cluster.up}
    await trio.sleep(100)
    assert {name: held(cluster, name) for name in cluster.up} == taken
    for name in ("n2", "n3", "n1"):
        await cluster.restart(name)
    await cluster.new_leader()
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1
    assert tasks(cluster, "n1") == before
    await fill(cluster, 1)


async def test_fewer_are_left_alone_however_long(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, evolve(FEW, threshold=500))
    await cluster.form("n1")
    await fill(cluster, 30)
    await trio.sleep(100)
    assert held(cluster, "n1") == []


async def test_a_long_log_calls_for_one(nursery: trio.Nursery) -> None:
    settings = SnapshotSettings(trailing_logs=TRAILING, max_log_bytes=100_000)
    cluster = with_snapshots(nursery, settings)
    await cluster.form("n1")
    await fill(cluster, 40)
    await trio.sleep(5)
    assert held(cluster, "n1") == []
    await fill(cluster, 20)
    await cluster.until(lambda: held(cluster, "n1"))
    await trio.sleep(100)
    assert len(held(cluster, "n1")) == 1


async def test_large_entries_are_not_kept_by_their_number(nursery: trio.Nursery) -> None:
    settings = SnapshotSettings(trailing_logs=1_000, max_log_bytes=100_000)
    cluster = with_snapshots(nursery, settings)
    await cluster.form("n1")
    for seed in range(6):
        await fill(cluster, 30, seed)
        await trio.sleep(5)
    assert len(held(cluster, "n1")) == 2
    sizes = sum(entry.size_bytes for entry in cluster.disks["n1"].entries)
    assert 100_000 < sizes < 300_000


async def test_on_request(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await cluster.start("n1")
    with pytest.raises(NotInitialized):
        await cluster.ask("n1", "snapshot")
    await cluster.ask("n1", "init")
    await cluster.new_leader()
    await fill(cluster, 10)
    process = cluster.up["n1"]
    first = await cluster.ask("n1", "snapshot")
    assert first.keys() == {"index", "term", "bytes"}
    assert first["index"] == process.machine.applied_index
    assert first["term"] == process.raft.term
    assert await cluster.ask("n1", "snapshot") == first
    await fill(cluster, 1)
    assert (await cluster.ask("n1", "snapshot"))["index"] == first["index"] + 1
    assert held(cluster, "n1") == [first["index"] + 1, first["index"]]


async def test_changes_made_meanwhile_are_not_in_it(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await cluster.form("n1")
    await fill(cluster)
    cluster.disks["n1"].write_latency = lambda: 0.05
    index, digest = cluster.up["n1"].machine.applied_index, cluster.up["n1"].machine.digest()
    taken: list[dict[str, Any]] = []

    async def take() -> None:
        taken.append(await cluster.ask("n1", "snapshot"))

    nursery.start_soon(take)
    await trio.sleep(0.01)
    await fill(cluster, 3)
    await cluster.until(lambda: taken)
    assert taken[0]["index"] == index
    cluster.disks["n1"].entries = cluster.disks["n1"].entries[:index]
    cluster.crash("n1")
    await cluster.start("n1")
    assert cluster.up["n1"].machine.digest() == digest


async def test_a_full_disk_costs_the_snapshot_only(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await cluster.form("n1")
    await fill(cluster, 10)
    cluster.disks["n1"].fail(full=True)
    with pytest.raises(NefiaError, match="No room left"):
        await cluster.ask("n1", "snapshot")
    cluster.disks["n1"].repair()
    assert held(cluster, "n1") == []
    await fill(cluster, 1)
    await cluster.restart("n1")
    await cluster.new_leader()
    assert len(tasks(cluster, "n1")) == 11
    assert (await cluster.ask("n1", "snapshot"))["index"]
    assert not cluster.failures


# Beginning with them.


async def test_a_damaged_one_leaves_the_one_before(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await cluster.form("n1")
    await fill(cluster, 3)
    first = await cluster.ask("n1", "snapshot")
    await fill(cluster, TRAILING - 1)
    await cluster.ask("n1", "snapshot")
    await fill(cluster, 2)
    before = tasks(cluster, "n1")
    cluster.crash("n1")
    cluster.disks["n1"].shelf.damage(Random(1))
    await cluster.start("n1")
    assert held(cluster, "n1") == [first["index"]]
    await cluster.new_leader()
    assert tasks(cluster, "n1") == before


async def test_without_a_sound_one_it_refuses_to_run(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, BY_HAND)
    await cluster.form("n1")
    await fill(cluster, 20)
    await cluster.ask("n1", "snapshot")
    await cluster.until(lambda: base_index(cluster, "n1") > 10)
    await fill(cluster, 1)
    cluster.crash("n1")
    cluster.disks["n1"].shelf.damage(Random(1))
    with pytest.raises(DataDamaged, match="no sound snapshot") as refused:
        await cluster.start("n1")
    assert "add it again" in refused.value.hint


# Putting one back.


async def saved(cluster: Cluster, name: str) -> list[Step]:
    """What `nefia snapshot restore` would send, of the newest snapshot of a node."""
    await cluster.ask(name, "snapshot")
    info, data = max(cluster.disks[name].shelf.snapshots.values(), key=lambda each: each[0].order)
    records = list(read_records(BytesIO(data), info, "it"))
    return list(steps("r-1", records, info.place.term))


async def send(cluster: Cluster, name: str, made: list[Step]) -> None:
    for step in made:
        await cluster.ask(name, "snapshot_restore", step=encode_step(step))


async def test_restored_state_is_on_all_nodes_and_begins_an_epoch(nursery: trio.Nursery) -> None:
    cluster = with_snapshots(nursery, FEW)
    await cluster.form("n1", "n2", "n3")
    await fill(cluster, 20)
    before = tasks(cluster, "n1")
    made = await saved(cluster, "n1")
    await fill(cluster, 20, seed=2)
    old = (await cluster.ask("n1", "queue_claim", worker="w"))["task"]
    cluster.crash("n3")
    await send(cluster, "n1", made)
    await cluster.until(lambda: cluster.leader and cluster.up[cluster.leader].raft.term >= 1 << 40)
    await cluster.start("n3")
    leader = await cluster.new_leader()
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1
    assert tasks(cluster, "n3") == before
    with pytest.raises(Conflict):
        await cluster.ask(leader, "queue_ack", id=old["id"], token=old["token"])
    claimed = (await cluster.ask(leader, "queue_claim", worker="w"))["task"]
    assert claimed["id"] == old["id"]
    assert claimed["token"] > max(old["token"], 1 << 40)
    assert int((await cluster.push(leader, 1))["task"]["id"]) == 41
    for name in ("n1", "n2", "n3"):
        await cluster.restart(name)
    await cluster.new_leader()
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1
    assert {process.raft.term >> 40 for process in cluster.up.values()} == {1}


async def test_who_watches_is_told_that_all_has_changed(nursery: trio.Nursery) -> None:
    """On a node that gets the steps as they come, and on one that gets them in one go."""
    cluster = with_snapshots(nursery, BY_HAND)
    await cluster.form("n1", "n2", "n3")
    await fill(cluster, 5)
    made = await saved(cluster, "n1")
    await fill(cluster, 1)
    await cluster.until(cluster.is_calm)
    missed = {"event": "missed", "count": None}
    with ExitStack() as stack:
        watchers = {
            name: stack.enter_context(cluster.up[name].node.watching.watch(["queue"]))
            for name in ("n2", "n3")
        }
        cluster.isolate("n3")
        await send(cluster, "n1", made)
        cluster.heal()
        for watcher in watchers.values():
            assert await watcher.take() == [missed]
        await cluster.new_leader()
        await fill(cluster, 1, seed=2)
        for watcher in watchers.values():
            (happening,) = await watcher.take()
            assert isinstance(happening, Happening)
            assert happening.change == "pushed"


async def test_a_restore_that_is_cut_short_changes_nothing(nursery: trio.Nursery) -> None:
    """And no snapshot is taken meanwhile, since only the log has what has come in."""
    cluster = with_snapshots(nursery, FEW)
    await cluster.form("n1", "n2", "n3")
    await fill(cluster, 10)
    made = await saved(cluster, "n1")
    await send(cluster, "n1", made[:-1])
    with pytest.raises(ChangeInProgress):
        await cluster.ask("n1", "snapshot")
    await fill(cluster, 40, seed=3)
    taken = held(cluster, "n1")
    await trio.sleep(10)
    assert held(cluster, "n1") == taken
    cluster.crash("n1")
    leader = await cluster.new_leader("n1")
    await send(cluster, leader, made[-1:])  # whoever leads has all that came before
    await cluster.until(lambda: len(tasks(cluster, leader)) == 10)
    await cluster.restart("n1")
    await send(cluster, await cluster.new_leader(), made[:-1])
    assert {len(tasks(cluster, name)) for name in cluster.up} == {10}


# In the long run.

HOUR_SECONDS = 3_600.0
HOURS_PER_WEEK = 168
RARELY = SnapshotSettings(threshold=500, interval=120.0, trailing_logs=200)


@pytest.mark.timeout(600)  # some seconds of processor time, of which a busy machine may give little
async def test_a_week_of_rare_writes_leaves_little_behind(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time entries go on while tasks can expire, one a minute. Timers are long, to be quick."""
    monkeypatch.setattr("nefia.node.caretaker.LOOK_SECONDS", HOUR_SECONDS)
    slow = Options(heartbeat_timeout=600.0, election_timeout=600.0, leader_lease=300.0)
    cluster = Cluster(nursery, settings=evolve(SETTINGS, options=slow, snapshots=RARELY))
    await cluster.form("n1")
    raft, disk = cluster.up["n1"].raft, cluster.disks["n1"]
    longest = 0
    for hour in range(HOURS_PER_WEEK):
        task = await cluster.push("n1", hour, request_id=f"r-{hour}")
        await cluster.ask("n1", "queue_cancel", id=task["task"]["id"])
        await trio.sleep(HOUR_SECONDS)
        longest = max(longest, len(disk.entries))
    assert raft.log.last_index > 9_000
    assert longest < RARELY.threshold + RARELY.trailing_logs + 20
    assert len(raft.log._tail) < longest + 20
    assert len(held(cluster, "n1")) == RARELY.retain
    sizes = sum(len(data) for _, data in disk.shelf.snapshots.values())
    assert sizes < 20_000
    assert len(tasks(cluster, "n1")) < 30  # of the last day
