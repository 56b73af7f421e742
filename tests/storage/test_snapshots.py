"""What every `SnapshotStore` does: the real one and its twin are held to the same sentences."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from nefia.clock import TrioNodeClock
from nefia.errors import DataDamaged, NotFound
from nefia.storage.lmdb_store import open_lmdb
from nefia.storage.memory import Disk, open_memory
from nefia.storage.snapshot_format import SnapshotInfo
from nefia.storage.snapshots import SnapshotStore
from nefia.storage.store import LogStore
from tests.storage.snapshots_made import contents, described, make, state

MANY = 3_000
"""Tasks that fill several chunks."""


class Place:
    """A data directory or a disk in memory; what is opened on it is closed before the next."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._disk = Disk()
        self._store: LogStore | None = None

    async def open(self) -> SnapshotStore:
        if self._store is not None:
            await self._store.close()
        if self._path is not None:
            self._store = await open_lmdb(self._path, "node-1")
        else:
            self._store = await open_memory(self._disk, "node-1", TrioNodeClock(), "aa")
        return self._store.snapshots

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()

    def spoil(self, info: SnapshotInfo) -> None:
        if self._path is None:
            self._disk.shelf.damage(Random(1))
            return
        data = self._path / "snapshots" / info.id / "data"
        spoilt = bytearray(data.read_bytes())
        spoilt[len(spoilt) // 2] ^= 0xFF
        data.write_bytes(spoilt)


@pytest.fixture(params=["files", "memory"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path / "data" if request.param == "files" else None)
    yield place
    await place.close()


async def test_a_snapshot_is_there_after_reopening(place: Place) -> None:
    store = await place.open()
    assert not store.found
    before = state(20, MANY)
    info = await make(store, 20, before)
    store = await place.open()
    assert store.found == (info,)
    assert info.place.index == 20
    assert info.id == "2-20"
    sizes = {each.kind: each.count for each in info.kinds}
    assert sizes == {"counters": 1, "task": MANY}
    assert await contents(store, info) == before


async def test_a_snapshot_that_has_gone_is_not_found(place: Place) -> None:
    """Between its choice and its reading another was taken; that is no fault of the disk."""
    store = await place.open()
    old = await make(store, 5)
    reader = await store.reader(old)
    await make(store, 90)
    await store.prune(1)
    assert await reader.read(0, 1), "who reads it already reads on"
    reader.close()
    with pytest.raises(NotFound, match="2-5"):
        await store.reader(old)
    with pytest.raises(NotFound):
        await contents(store, old)
    await store.set_aside(old)
    assert [info.place.index for info in store.found] == [90]


async def test_the_newest_is_found_first_and_the_oldest_goes(place: Place) -> None:
    store = await place.open()
    made = [await make(store, index) for index in (5, 90, 1_000)]
    assert store.found == tuple(reversed(made))
    await store.prune(2)
    store = await place.open()
    assert store.found == (made[2], made[1])


async def test_what_is_not_finished_is_no_snapshot(place: Place) -> None:
    store = await place.open()
    writer = await store.create(described(5))
    await writer.add(b"")
    assert not store.found
    abandoned = await store.create(described(6))
    await abandoned.abandon()
    store = await place.open()
    assert not store.found


async def test_a_reader_keeps_its_data(place: Place) -> None:
    store = await place.open()
    info = await make(store, 5, state(5, MANY))
    reader = await store.reader(info)
    await make(store, 6)
    await store.prune(1)
    data = await reader.read(0, info.data_bytes + 1)
    assert len(data) == info.data_bytes
    assert await reader.read(7, 11) == data[7:18]
    reader.close()


async def test_damage_is_found_when_it_is_read_and_set_aside(place: Place) -> None:
    store = await place.open()
    older, newer = await make(store, 5), await make(store, 6)
    place.spoil(newer)
    with pytest.raises(DataDamaged):
        await contents(store, newer)
    await store.set_aside(newer)
    assert store.found == (older,)
    store = await place.open()
    assert store.found == (older,)


# From another node.


async def source(tmp_path: Path) -> tuple[SnapshotInfo, bytes]:
    """Another node's snapshot, and its data."""
    other = await open_memory(Disk(), "node-2", TrioNodeClock(), "bb")
    info = await make(other.snapshots, 50, state(50, MANY))
    reader = await other.snapshots.reader(info)
    data = await reader.read(0, info.data_bytes)
    await other.close()
    return info, data


async def test_what_is_staged_goes_on_after_a_restart(place: Place, tmp_path: Path) -> None:
    info, data = await source(tmp_path)
    store = await place.open()
    assert await store.stage(info) == 0
    assert await store.add_staged(data[:1000]) == 1000
    store = await place.open()
    assert not store.found
    assert await store.stage(info) == 1000
    assert await store.add_staged(data[1000:]) == len(data)
    await store.adopt(info)
    assert store.found == (info,)
    assert await store.stage(info) == len(data)
    assert await contents(store, info) == state(50, MANY)
    store = await place.open()
    assert store.found == (info,)


async def test_another_snapshot_begins_anew(place: Place, tmp_path: Path) -> None:
    info, data = await source(tmp_path)
    store = await place.open()
    await store.stage(info)
    await store.add_staged(data[:1000])
    other = await make(await _memory(), 51)
    assert await store.stage(other) == 0
    assert await store.stage(info) == 0


async def _memory() -> SnapshotStore:
    return (await open_memory(Disk(), "node-2", TrioNodeClock(), "bb")).snapshots


@pytest.mark.parametrize("spoilt", ["cut", "longer", "other"])
async def test_what_is_not_whole_is_not_adopted(place: Place, tmp_path: Path, spoilt: str) -> None:
    info, data = await source(tmp_path)
    store = await place.open()
    await store.stage(info)
    wrong = {"cut": data[:-1], "longer": data + b"x", "other": b"x" + data[1:]}[spoilt]
    await store.add_staged(wrong)
    with pytest.raises(DataDamaged):
        await store.adopt(info)
    assert not store.found
    assert await store.stage(info) == 0
    await store.add_staged(data)
    await store.adopt(info)
    assert store.found == (info,)
