"""Snapshots for tests, made as a node makes them, but of records that no machine has seen."""

from __future__ import annotations

from nefia.raft.configuration import Configuration, Member
from nefia.raft.entries import SnapshotMeta
from nefia.state.records import Counters, Record, Task, TaskState
from nefia.storage.snapshot_format import Described, Encoder, SnapshotInfo
from nefia.storage.snapshots import SnapshotStore

MEMBERS = Configuration((Member("node-1", "a:1", voter=True), Member("node-2", "b:1", voter=True)))


def state(index: int, tasks: int = 3, payload_bytes: int = 20) -> list[tuple[str, Record]]:
    counters = Counters(index, 1_000, tasks, 0, 1_001, 0)
    made = [("task", task(number, payload_bytes)) for number in range(1, tasks + 1)]
    return [("counters", counters), *made]


def task(number: int, payload_bytes: int) -> Task:
    return Task(
        number=number,
        queue="default",
        host="",
        payload=b'"%s"' % (b"%d" % number).rjust(payload_bytes, b"."),
        priority=0,
        run_at_ms=0,
        attempt=0,
        max_attempts=3,
        key="",
        state=TaskState.PENDING,
        worker="",
        token=0,
        lease_expires_ms=0,
        result=b"",
        error="",
        created_ms=1_000,
        updated_ms=1_000,
        finished_ms=0,
    )


def described(index: int, term: int = 2) -> Described:
    return Described(SnapshotMeta(index, term, MEMBERS, 1), "cluster-a", 1_000, "1.0")


async def make(
    store: SnapshotStore, index: int, records: list[tuple[str, Record]] | None = None
) -> SnapshotInfo:
    encoder = Encoder(records or state(index))
    writer = await store.create(described(index))
    while chunk := encoder.next_chunk():
        await writer.add(chunk)
    return await writer.finish(encoder.kinds)


async def contents(store: SnapshotStore, info: SnapshotInfo) -> list[tuple[str, Record]]:
    return await store.restore(info, list)
