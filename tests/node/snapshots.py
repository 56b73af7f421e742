"""Clusters whose nodes take snapshots, and looks at what they have on their disks."""

from __future__ import annotations

from random import Random

import trio
from attrs import evolve

from nefia.node.snapshotter import SnapshotSettings
from nefia.state.records import Task
from tests.node.cluster import SETTINGS, Cluster

TRAILING = 5
FEW = SnapshotSettings(threshold=20, interval=1.0, trailing_logs=TRAILING)
BY_HAND = SnapshotSettings(threshold=1_000_000, trailing_logs=TRAILING)
PAYLOAD_CHARACTERS = 2_000
TASKS = 100
"""So many fill dozens of blocks."""


def with_snapshots(nursery: trio.Nursery, settings: SnapshotSettings) -> Cluster:
    return Cluster(nursery, settings=evolve(SETTINGS, snapshots=settings))


async def fill(cluster: Cluster, count: int = TASKS, seed: int = 1) -> None:
    """Tasks that cannot be compressed, each an entry of its own."""
    random = Random(seed)
    for _ in range(count):
        leader = cluster.leader or await cluster.new_leader()
        await cluster.push(leader, random.randbytes(PAYLOAD_CHARACTERS // 2).hex())


def base_index(cluster: Cluster, name: str) -> int:
    return cluster.up[name].raft.log.base_index


def held(cluster: Cluster, name: str) -> list[int]:
    """The indexes of the snapshots on a disk, the newest first."""
    infos = [info for info, _ in cluster.disks[name].shelf.snapshots.values()]
    return sorted((info.place.index for info in infos), reverse=True)


def tasks(cluster: Cluster, name: str) -> tuple[Task, ...]:
    return cluster.up[name].machine.list_tasks(limit=1000)[0]


def staged_bytes(cluster: Cluster, name: str) -> int:
    staged = cluster.disks[name].shelf.staged
    return 0 if staged is None else len(staged[1])
