"""raft.db: a durable transaction, in the thread that makes it, and as the event loop sees it.

`--basetemp` has to be on a real disk, or a sync costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import trio

from benchmarks.micro.samples import BATCHES, Benchmark, batch, entries
from nefia.raft.effects import Write
from nefia.storage import layout
from nefia.storage.lmdb_store import open_lmdb
from nefia.storage.raft_db import RaftDb, create
from nefia.storage.store import Identity

pytestmark = pytest.mark.benchmark(group="store")

WRITES = 50


def writes(payload: bytes, entries_each: int = 1) -> Iterator[Write]:
    """One after the other, as a leader makes them."""
    for sequence in count(1):
        first = 1 + (sequence - 1) * entries_each
        yield Write(sequence, entries=tuple(entries(first, entries_each, payload)))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[RaftDb]:
    path = tmp_path / layout.DATABASE_FILE
    create(path, Identity("node-1", "instance", "cluster"))
    opened = RaftDb(path)
    yield opened
    opened.close()


@pytest.mark.parametrize("size", BATCHES)
def test_one_entry_of_a_batch(benchmark: Benchmark, db: RaftDb, size: int) -> None:
    due = writes(batch(size))
    benchmark(lambda: db.write(next(due)))
    assert db.load(1 << 20).last_index == next(due).sequence - 1


@pytest.mark.parametrize("entries_each", BATCHES)
def test_many_entries_at_once(benchmark: Benchmark, db: RaftDb, entries_each: int) -> None:
    due = writes(batch(1), entries_each)
    benchmark(lambda: db.write(next(due)))
    assert db.load(1 << 20).last_index == (next(due).sequence - 1) * entries_each


@pytest.mark.parametrize("writes_each", [0, WRITES])
def test_writes_from_the_event_loop(benchmark: Benchmark, tmp_path: Path, writes_each: int) -> None:
    """With opening a new store. What a write takes here beyond `db.write` is the way to the thread
    and back."""
    runs = count()

    async def write() -> int:
        store = await open_lmdb(tmp_path / str(next(runs)), "node-1")
        due = writes(batch(1))
        for _ in range(writes_each):
            await store.write(next(due))
        stored = await store.load(1 << 20)
        await store.close()
        return stored.last_index

    assert benchmark(trio.run, write) == writes_each


def test_read_entries_for_a_follower(benchmark: Benchmark, db: RaftDb) -> None:
    db.write(next(writes(batch(1), 1000)))
    assert len(benchmark(db.read, 1, 1000, 1 << 20)) == 1000
