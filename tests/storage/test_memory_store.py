"""The faults of the simulated disk."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing

from nefia import errors
from nefia.clock import TrioNodeClock
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState
from nefia.storage.memory import Disk, MemoryStore, open_memory

ALL_BYTES = 1 << 30


async def opened(disk: Disk) -> MemoryStore:
    return await open_memory(disk, "node-1", TrioNodeClock(), "00aa")


def one(index: int) -> Write:
    return Write(index, HardState(index), (Entry(index, 1),))


async def test_a_write_takes_as_long_as_the_disk_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Disk(write_latency=lambda: 0.25, read_latency=lambda: 0.5)
    store = await opened(disk)
    began = trio.current_time()
    await store.write(one(1))
    assert trio.current_time() - began == 0.25
    await store.load(0)
    assert trio.current_time() - began == 0.75


async def test_a_crash_keeps_or_loses_the_write_under_way_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes = set()
    for seed in range(20):
        disk = Disk(write_latency=lambda: 1.0)
        store = await opened(disk)
        await store.write(one(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, one(2))
            await trio.sleep(0.5)
            disk.crash(Random(seed))
            nursery.cancel_scope.cancel()
        with pytest.raises(errors.DiskFailed):
            await store.write(one(3))
        stored = await (await opened(disk)).load(ALL_BYTES)
        assert stored.hard_state.term == stored.last_index
        outcomes.add(stored.last_index)
    assert outcomes == {1, 2}


async def test_a_crash_never_keeps_a_later_write_without_the_earlier() -> None:
    for seed in range(20):
        disk = Disk()
        store = await opened(disk)
        disk.stall()
        for index in (1, 2, 3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.write, one(index))
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        disk.crash(Random(seed))
        disk.release()
        stored = await (await opened(disk)).load(ALL_BYTES)
        assert [entry.index for entry in stored.tail] == [1, 2, 3][: stored.last_index]


async def test_a_stalled_disk_reads_but_does_not_write() -> None:
    disk = Disk()
    store = await opened(disk)
    disk.stall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, one(1))
        await trio.testing.wait_all_tasks_blocked()
        assert (await store.load(0)).last_index == 0
        disk.release()
    assert (await store.load(0)).last_index == 1


async def test_a_hung_write_keeps_the_next_store_out() -> None:
    disk = Disk()
    store = await opened(disk)
    disk.stall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, one(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await store.close()
    with pytest.raises(errors.DataInUse):
        await opened(disk)
    disk.release()
    assert (await (await opened(disk)).load(0)).last_index == 1


@pytest.mark.parametrize("lands", [False, True])
async def test_what_failed_may_be_there_nevertheless(lands: bool) -> None:
    disk = Disk()
    store = await opened(disk)
    disk.fail(lands=lands)
    with pytest.raises(errors.DiskFailed):
        await store.write(one(1))
    disk.repair()
    await store.close()
    assert (await (await opened(disk)).load(0)).last_index == (1 if lands else 0)


async def test_damage_is_found_at_opening_and_reading() -> None:
    disk = Disk()
    store = await opened(disk)
    await store.write(one(1))
    disk.damaged = 1
    with pytest.raises(errors.DataDamaged):
        await store.read(1, 1, ALL_BYTES)
    await store.close()
    with pytest.raises(errors.DataDamaged) as caught:
        await opened(disk)
    assert caught.value.details["index"] == 1
