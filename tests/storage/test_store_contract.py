"""What every `LogStore` does: the real one and its twin are held to the same sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TypeAlias

import pytest
import trio
import trio.testing

from nefia import errors
from nefia.clock import TrioNodeClock
from nefia.raft.configuration import Configuration, Member
from nefia.raft.effects import Write
from nefia.raft.entries import ENTRY_OVERHEAD_BYTES, Entry, HardState, SnapshotMeta
from nefia.storage.lmdb_store import LmdbStore, open_lmdb
from nefia.storage.memory import Disk, MemoryStore, open_memory
from nefia.storage.raft_db import COMPACTED_PER_WRITE
from nefia.storage.store import LogStore, Stored

AnyStore: TypeAlias = LmdbStore | MemoryStore

ALL_BYTES = 1 << 30
VOTERS = Configuration((Member("node-1", "a:1", voter=True), Member("node-2", "b:1", voter=True)))


class RealPlace:
    """A data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path / "cluster"

    async def open(self, node_id: str = "node-1") -> AnyStore:
        return await open_lmdb(self.path, node_id)


class SimulatedPlace:
    """A disk in memory."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.random = Random(1)

    async def open(self, node_id: str = "node-1") -> AnyStore:
        instance_id = self.random.randbytes(8).hex()
        return await open_memory(self.disk, node_id, TrioNodeClock(), instance_id)


Place: TypeAlias = RealPlace | SimulatedPlace


@pytest.fixture(params=["lmdb", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return RealPlace(tmp_path) if request.param == "lmdb" else SimulatedPlace()


def command(index: int, term: int = 1, size_bytes: int = 4) -> Entry:
    return Entry(index, term, index.to_bytes(4, "big").rjust(size_bytes, b"."))


def commands(first: int, last: int, term: int = 1) -> tuple[Entry, ...]:
    return tuple(command(index, term) for index in range(first, last + 1))


def base(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, VOTERS, configuration_index=1)


async def reopened(place: Place, store: AnyStore) -> AnyStore:
    await store.close()
    return await place.open()


async def contents(store: LogStore) -> Stored:
    return await store.load(ALL_BYTES)


EMPTY = Stored(
    hard_state=HardState(),
    snapshot=None,
    first_index=1,
    last_index=0,
    term_starts=(),
    configurations=(),
    tail=(),
)


async def test_a_new_store_is_empty_and_has_an_identity(place: Place) -> None:
    store = await place.open()
    assert await contents(store) == EMPTY
    assert store.identity.node_id == "node-1"
    assert store.identity.cluster_id == ""
    assert len(bytes.fromhex(store.identity.instance_id)) == 8
    with pytest.raises(KeyError):
        await store.read(1, 1, ALL_BYTES)
    await store.close()


async def test_the_identity_stays(place: Place) -> None:
    store = await place.open()
    identity = store.identity
    store = await reopened(place, store)
    assert store.identity == identity
    await store.close()


async def test_what_was_written_is_there_after_reopening(place: Place) -> None:
    store = await place.open()
    entries = (Entry(1, 1, VOTERS), Entry(2, 1), command(3, 2), command(4, 2))
    await store.write(Write(1, hard_state=HardState(2, "node-2"), entries=entries))
    store = await reopened(place, store)
    assert await contents(store) == Stored(
        hard_state=HardState(2, "node-2"),
        snapshot=None,
        first_index=1,
        last_index=4,
        term_starts=((1, 1), (3, 2)),
        configurations=((1, VOTERS),),
        tail=entries,
    )
    await store.close()


async def test_a_write_without_a_vote_leaves_the_vote(place: Place) -> None:
    store = await place.open()
    await store.write(Write(1, hard_state=HardState(2, "node-2")))
    await store.write(Write(2, entries=commands(1, 2)))
    assert (await contents(store)).hard_state == HardState(2, "node-2")
    await store.close()


async def test_entries_replace_everything_from_the_first_of_them_on(place: Place) -> None:
    store = await place.open()
    await store.write(Write(1, entries=(*commands(1, 4), Entry(5, 1, VOTERS), *commands(6, 9))))
    await store.write(Write(2, entries=commands(4, 5, term=3)))
    stored = await contents(store)
    assert stored.tail == (*commands(1, 3), *commands(4, 5, term=3))
    assert stored.term_starts == ((1, 1), (4, 3))
    assert stored.configurations == ()
    with pytest.raises(KeyError):
        await store.read(6, 9, ALL_BYTES)
    await store.close()


async def test_a_snapshot_replaces_the_log(place: Place) -> None:
    store = await place.open()
    await store.write(Write(1, entries=commands(1, 9)))
    await store.write(Write(2, snapshot=base(20, 4)))
    store = await reopened(place, store)
    stored = await contents(store)
    assert (stored.first_index, stored.last_index, stored.tail) == (21, 20, ())
    assert stored.snapshot == base(20, 4)
    await store.write(Write(3, entries=commands(21, 23, term=4)))
    assert await store.read(21, 99, ALL_BYTES) == commands(21, 23, term=4)
    await store.close()


async def test_a_snapshot_and_the_entries_behind_it_in_one_write(place: Place) -> None:
    store = await place.open()
    await store.write(Write(1, entries=commands(1, 9)))
    await store.write(Write(2, snapshot=base(5), entries=commands(6, 7, term=2)))
    stored = await contents(store)
    assert (stored.first_index, stored.last_index) == (6, 7)
    assert stored.tail == commands(6, 7, term=2)
    await store.close()


async def test_a_compacted_log_begins_behind_its_base(place: Place) -> None:
    store = await place.open()
    await store.write(Write(1, entries=(Entry(1, 1, VOTERS), *commands(2, 9))))
    await store.write(Write(2, compact=base(6)))
    for _ in range(2):
        stored = await contents(store)
        assert (stored.first_index, stored.last_index) == (7, 9)
        assert stored.snapshot == base(6)
        assert stored.term_starts == ((7, 1),)
        assert stored.configurations == ()
        assert stored.tail == commands(7, 9)
        with pytest.raises(KeyError):
            await store.read(6, 9, ALL_BYTES)
        store = await reopened(place, store)
    await store.close()


async def test_compaction_through_the_last_entry_keeps_the_place(place: Place) -> None:
    store = await place.open()
    last = COMPACTED_PER_WRITE + 40
    await store.write(Write(1, entries=commands(1, last)))
    await store.write(Write(2, compact=base(last)))
    stored = await contents(store)
    assert (stored.first_index, stored.last_index, stored.tail) == (last + 1, last, ())
    await store.write(Write(3, entries=commands(last + 1, last + 2, term=2)))
    store = await reopened(place, store)
    stored = await contents(store)
    assert stored.tail == commands(last + 1, last + 2, term=2)
    assert stored.term_starts == ((last + 1, 2),)
    await store.close()


async def test_a_snapshot_entries_and_a_compaction_in_one_write(place: Place) -> None:
    store = await place.open()
    await store.write(Write(1, snapshot=base(5), entries=commands(6, 9), compact=base(7)))
    stored = await contents(store)
    assert (stored.snapshot, stored.tail) == (base(7), commands(8, 9))
    await store.close()


async def test_read_returns_at_least_one_entry_and_then_keeps_the_limit(place: Place) -> None:
    store = await place.open()
    entries = tuple(command(index, size_bytes=100) for index in range(1, 10))
    await store.write(Write(1, entries=entries))
    each = ENTRY_OVERHEAD_BYTES + 100
    assert await store.read(3, 9, 1) == entries[2:3]
    assert await store.read(3, 9, 2 * each) == entries[2:4]
    assert await store.read(3, 9, 3 * each - 1) == entries[2:4]
    assert await store.read(3, 5, ALL_BYTES) == entries[2:5]
    assert await store.read(8, 50, ALL_BYTES) == entries[7:]
    for outside in (0, 10):
        with pytest.raises(KeyError):
            await store.read(outside, outside + 3, ALL_BYTES)
    await store.close()


async def test_load_returns_the_newest_entries_within_the_limit(place: Place) -> None:
    store = await place.open()
    entries = tuple(command(index, size_bytes=100) for index in range(1, 10))
    await store.write(Write(1, entries=entries))
    each = ENTRY_OVERHEAD_BYTES + 100
    for limit_bytes, count in ((0, 0), (each - 1, 0), (each, 1), (3 * each, 3), (ALL_BYTES, 9)):
        stored = await store.load(limit_bytes)
        assert stored.tail == entries[9 - count :]
        assert stored.term_starts == ((1, 1),)
    await store.close()


async def test_large_entries(place: Place) -> None:
    store = await place.open()
    entries = tuple(Entry(i, 1, Random(i).randbytes(256 * 1024)) for i in range(1, 6))
    await store.write(Write(1, entries=entries))
    store = await reopened(place, store)
    assert (await contents(store)).tail == entries
    await store.close()


async def test_a_cluster_is_joined_once(place: Place) -> None:
    store = await place.open()
    await store.join("cluster-a")
    await store.join("cluster-a")
    with pytest.raises(errors.OtherCluster):
        await store.join("cluster-b")
    store = await reopened(place, store)
    assert store.identity.cluster_id == "cluster-a"
    with pytest.raises(errors.OtherCluster):
        await store.join("cluster-b")
    await store.close()


async def test_another_node_is_refused_and_the_right_one_still_let_in(place: Place) -> None:
    store = await place.open()
    await store.write(Write(1, entries=commands(1, 3)))
    await store.close()
    with pytest.raises(errors.OtherNode, match="node-1"):
        await place.open("node-2")
    store = await place.open()
    assert (await contents(store)).last_index == 3
    await store.close()


async def test_a_second_store_is_refused_until_the_first_is_closed(place: Place) -> None:
    store = await place.open()
    with pytest.raises(errors.DataInUse):
        await place.open()
    store = await reopened(place, store)
    await store.close()


async def test_closing_twice_is_closing_once(place: Place) -> None:
    store = await place.open()
    await store.close()
    await store.close()


async def test_a_cancelled_write_is_carried_out_in_its_turn(place: Place) -> None:
    store = await place.open()
    for index in range(1, 6):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, Write(index, entries=(command(index),)))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    await store.write(Write(6, entries=(command(6),)))
    store = await reopened(place, store)
    assert (await contents(store)).tail == commands(1, 6)
    await store.close()


# A failed write.


@pytest.fixture
def broken(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Makes every write from now on fail with an error number."""

    def break_disk(number: int) -> None:
        if isinstance(place, SimulatedPlace):
            place.disk.fail(full=number == FULL)
            return

        def fail(*_: object) -> None:
            raise OSError(number, "planted")

        writers = (
            "raft_db.RaftDb._reserve",
            "journal.Journal.write",
            "direct_writer.DirectWriter._result",
        )
        for call in writers:
            monkeypatch.setattr(f"nefia.storage.{call}", fail)

    yield break_disk
    if isinstance(place, SimulatedPlace):
        place.disk.repair()


FULL = 28  # ENOSPC
BROKEN = 5  # EIO


@pytest.mark.parametrize("number", [FULL, BROKEN])
async def test_after_a_failed_write_all_are_refused_until_reopened(
    place: Place,
    broken: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    store = await place.open()
    await store.write(Write(1, entries=commands(1, 3)))
    broken(number)
    for _ in range(2):
        with pytest.raises(errors.DiskFailed) as caught:
            await store.write(Write(2, entries=commands(4, 5)))
        assert caught.value.details["full"] is (number == FULL)
        if isinstance(place, SimulatedPlace):
            place.disk.repair()
        monkeypatch.undo()
    with pytest.raises(errors.DiskFailed):
        await store.join("cluster-a")
    assert await store.read(1, 3, ALL_BYTES) == commands(1, 3)
    store = await reopened(place, store)
    assert store.identity.cluster_id == ""
    await store.write(Write(3, entries=commands(4, 4)))
    assert (await contents(store)).tail == commands(1, 4)
    await store.close()


async def written(store: AnyStore, write: Write) -> Exception | None:
    """What `begin_write` tells in the end."""
    ends: list[Exception | None] = []
    told = trio.Event()

    def ended(error: Exception | None) -> None:
        ends.append(error)
        told.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        store.begin_write(write, ended)
        with trio.fail_after(5):
            await told.wait()
        nursery.cancel_scope.cancel()
    [end] = ends
    return end


async def test_a_write_that_is_begun_tells_its_end(
    place: Place, broken: Callable[[int], None]
) -> None:
    store = await place.open()
    assert await written(store, Write(1, entries=commands(1, 3))) is None
    assert await store.read(1, 9, ALL_BYTES) == commands(1, 3)
    broken(BROKEN)
    assert isinstance(await written(store, Write(2, entries=commands(4, 5))), errors.DiskFailed)
    await store.close()


# The twin is a twin.


def random_writes(random: Random, count: int) -> Iterator[Write]:
    """A plausible life: appends, conflicts above the commit index, compactions, a snapshot."""
    first, last, term = 1, 0, 1
    for sequence in range(1, count + 1):
        term += random.random() < 0.3
        write = Write(sequence, hard_state=HardState(term, random.choice([None, "node-2"])))
        match random.randrange(8):
            case 0 if last > first + 4:
                first = random.randrange(first, last + 1) + 1
                write = Write(sequence, compact=base(first - 1, term))
            case 1 if random.random() < 0.3:
                first, last = last + 11, last + 10
                write = Write(sequence, snapshot=base(last, term))
            case kind:
                start = random.randrange(max(first, last - 3), last + 2) if kind < 4 else last + 1
                last = start + random.choice([0, 0, 2, 30])
                entries = list(commands(start, last, term))
                if random.random() < 0.1:
                    entries[0] = Entry(start, term, VOTERS)
                write = Write(sequence, write.hard_state, tuple(entries))
        yield write


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_writes_leave_the_same_contents(seed: int, tmp_path: Path) -> None:
    real_place, simulated_place = RealPlace(tmp_path), SimulatedPlace()
    real, simulated = await real_place.open(), await simulated_place.open()
    for write in random_writes(Random(seed), 60):
        await real.write(write)
        await simulated.write(write)
        if write.sequence % 20 == 0:
            real = await reopened(real_place, real)
            assert await contents(real) == await contents(simulated)
            assert await real.load(500) == await simulated.load(500)
    stored = await contents(real)
    if stored.tail:
        middle = (stored.first_index + stored.last_index) // 2
        assert await real.read(middle, middle + 5, 300) == await simulated.read(
            middle, middle + 5, 300
        )
    await real.close()
    await simulated.close()
