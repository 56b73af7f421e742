"""The twin of `lmdb_store` for simulation: a disk in memory that is slow, full, stuck or dead.

A `Disk` is what survives a crash, as a directory would; a `MemoryStore` is opened on it. All of it
runs in the event loop and on the node's own clock, because a mock clock takes a task that waits
for a thread to be idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from random import Random

import trio
from attrs import evolve

from nefia import errors
from nefia.clock import NodeClock, sleep
from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.storage.snapshot_memory import MemorySnapshots, Shelf
from nefia.storage.store import Ended, Identity, Stored

SURVIVAL_PROBABILITY = 0.5
"""Of a write that was under way when its node crashed."""


def _at_once() -> float:
    return 0.0


class Disk:
    """What one node has on its disk, and the faults of that disk.

    `write_latency` and `read_latency` give the seconds that the next operation takes. `damaged` is
    the index of an entry whose checksum no longer fits, if any. A fault holds for every write that
    is not yet finished when it is set.
    """

    def __init__(
        self,
        *,
        write_latency: Callable[[], float] = _at_once,
        read_latency: Callable[[], float] = _at_once,
    ) -> None:
        self.write_latency = write_latency
        self.read_latency = read_latency
        self.damaged: int | None = None
        self.identity: Identity | None = None
        self.hard_state = HardState()
        self.base: SnapshotMeta | None = None
        self.entries: list[Entry] = []
        self.owner: MemoryStore | None = None
        self.shelf = Shelf()
        self._in_flight: deque[Write] = deque()
        self._full: bool | None = None  # None: the disk is in order
        self._failed_writes_land = False
        self._moving = trio.Event()
        self._moving.set()

    @property
    def base_index(self) -> int:
        return self.base.index if self.base else 0

    @property
    def last_index(self) -> int:
        return self.entries[-1].index if self.entries else self.base_index

    # Faults.

    def stall(self) -> None:
        """No write finishes until `release`. Reads go on."""
        if self._moving.is_set():
            self._moving = trio.Event()

    def release(self) -> None:
        self._moving.set()

    def fail(self, *, full: bool = False, lands: bool = False) -> None:
        """Writes fail until `repair`; `lands`: what failed is on the disk nevertheless."""
        self._full = full
        self._failed_writes_land = lands

    def repair(self) -> None:
        self._full = None

    def crash(self, random: Random) -> None:
        """The node dies: of the writes under way the first so many survive, each whole.

        The store is of no further use; another may be opened.
        """
        while self._in_flight and random.random() < SURVIVAL_PROBABILITY:
            self._apply(self._in_flight.popleft())
        self._in_flight.clear()
        self.shelf.crash(random)
        self.owner = None

    # For `MemoryStore`.

    def begin(self, write: Write) -> None:
        self._in_flight.append(write)

    async def moving(self) -> None:
        await self._moving.wait()

    @property
    def is_busy(self) -> bool:
        return bool(self._in_flight)

    def settle(self) -> None:
        """Bring what is in flight to its end, unless the disk is stalled. Raises `DiskFailed`."""
        if not self._moving.is_set() or not self._in_flight:
            return
        while self._in_flight:
            write = self._in_flight.popleft()
            if self._full is None or self._failed_writes_land:
                self._apply(write)
        self.check_in_order()

    def check_in_order(self) -> None:
        if self._full is not None:
            reason = "No room left on the disk" if self._full else "The disk failed"
            raise errors.DiskFailed(f"{reason} (simulated)", full=self._full)

    def check_undamaged(self) -> None:
        if self.damaged is not None:
            raise errors.DataDamaged(
                f"Entry {self.damaged} has a bad checksum (simulated)", index=self.damaged
            )

    def _apply(self, write: Write) -> None:
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.snapshot is not None:
            self.base = write.snapshot
            self.entries.clear()
        if write.entries:
            first = write.entries[0].index
            assert self.base_index < first <= self.last_index + 1, "a log has no gaps"
            del self.entries[first - self.base_index - 1 :]
            self.entries.extend(write.entries)
        if write.compact is not None:
            assert self.base_index <= write.compact.index <= self.last_index
            del self.entries[: write.compact.index - self.base_index]
            self.base = write.compact


async def open_memory(
    disk: Disk, node_id: str, clock: NodeClock, new_instance_id: str
) -> MemoryStore:
    """Open a store on `disk`; an empty one gets the identity `node_id`, `new_instance_id`.

    Raises `DataInUse` while another store is open or a write of the last one still hangs, and
    `DataDamaged`, `OtherNode` and `DiskFailed` as `open_lmdb` does.
    """
    await sleep(clock, disk.read_latency())
    with suppress(errors.DiskFailed):
        disk.settle()
    if disk.owner is not None or disk.is_busy:
        raise errors.DataInUse("this disk is in use by another store")
    if disk.identity is None:
        disk.check_in_order()
        disk.identity = Identity(node_id, new_instance_id, cluster_id="")
    disk.check_undamaged()
    if disk.identity.node_id != node_id:
        raise errors.OtherNode(
            f"this disk belongs to node {disk.identity.node_id}, and this node is {node_id}"
        )
    return MemoryStore(disk, disk.identity, clock)


class MemoryStore:
    """A `LogStore`. Made by `open_memory`."""

    def __init__(self, disk: Disk, identity: Identity, clock: NodeClock) -> None:
        self._disk = disk
        self._clock = clock
        self._identity = identity
        self._writing = False
        self._failure: errors.DiskFailed | None = None
        self._nursery: trio.Nursery
        self.snapshots = MemorySnapshots(self, disk.shelf)
        disk.owner = self

    @property
    def identity(self) -> Identity:
        return self._identity

    async def load(self, tail_bytes: int) -> Stored:
        disk = await self._read_disk()
        return Stored(
            hard_state=disk.hard_state,
            snapshot=disk.base,
            first_index=disk.base_index + 1,
            last_index=disk.last_index,
            term_starts=_term_starts(disk.entries),
            configurations=_configurations(disk.entries),
            tail=_tail(disk.entries, tail_bytes),
        )

    async def read(self, first: int, last: int, limit_bytes: int) -> tuple[Entry, ...]:
        disk = await self._read_disk()
        if not disk.base_index < first <= disk.last_index:
            raise KeyError(first)
        start = first - disk.base_index - 1
        found: list[Entry] = []
        size_bytes = 0
        for entry in disk.entries[start : start + last - first + 1]:
            size_bytes += entry.size_bytes
            if found and size_bytes > limit_bytes:
                break
            found.append(entry)
        return tuple(found)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def begin_write(self, write: Write, ended: Ended) -> None:
        self._nursery.start_soon(self._write_and_tell, write, ended)

    async def _write_and_tell(self, write: Write, ended: Ended) -> None:
        try:
            await self.write(write)
        except errors.DiskFailed as error:
            ended(error)
        else:
            ended(None)

    async def write(self, write: Write) -> None:
        assert not self._writing, "one write at a time"
        self._check_usable()
        if self._failure is not None:
            raise errors.DiskFailed(
                f"Refused, since an earlier write failed. {self._failure.message}",
                full=self._failure.details["full"],
            )
        self._disk.begin(write)
        self._writing = True
        try:
            await sleep(self._clock, self._disk.write_latency())
            await self._disk.moving()
        finally:
            self._writing = False
        self._check_usable()
        self._settle()

    async def join(self, cluster_id: str, lineage: str = "") -> None:
        if self._identity.cluster_id == cluster_id:
            return
        if self._identity.cluster_id:
            raise errors.OtherCluster(
                f"this disk belongs to cluster {self._identity.cluster_id}, not {cluster_id}"
            )
        await self.write(Write(sequence=0))
        self._identity = self._disk.identity = evolve(
            self._identity, cluster_id=cluster_id, lineage=lineage
        )

    async def close(self) -> None:
        if self._disk.owner is self:
            with suppress(errors.DiskFailed):
                self._disk.settle()
            self._disk.owner = None
        await trio.lowlevel.checkpoint()

    async def step(self) -> None:
        """One step of the snapshots: it takes time, and may fail, as a write does."""
        self._check_usable()
        await sleep(self._clock, self._disk.write_latency())
        await self._disk.moving()
        self._check_usable()
        self._disk.check_in_order()

    async def _read_disk(self) -> Disk:
        self._check_usable()
        await sleep(self._clock, self._disk.read_latency())
        self._check_usable()
        if not self._writing:  # then what is in flight was left by a cancelled caller
            with suppress(errors.DiskFailed):
                self._settle()
        self._disk.check_undamaged()
        return self._disk

    def _settle(self) -> None:
        try:
            self._disk.settle()
        except errors.DiskFailed as error:
            self._failure = error
            raise

    def _check_usable(self) -> None:
        if self._disk.owner is not self:
            raise errors.DiskFailed("The node has crashed (simulated)", full=False)


def _term_starts(entries: Iterable[Entry]) -> tuple[tuple[int, int], ...]:
    starts: list[tuple[int, int]] = []
    for entry in entries:
        if not starts or starts[-1][1] != entry.term:
            starts.append((entry.index, entry.term))
    return tuple(starts)


def _configurations(entries: Iterable[Entry]) -> tuple[tuple[int, Configuration], ...]:
    return tuple(
        (entry.index, entry.payload)
        for entry in entries
        if isinstance(entry.payload, Configuration)
    )


def _tail(entries: Sequence[Entry], limit_bytes: int) -> tuple[Entry, ...]:
    count = 0
    for entry in reversed(entries):
        limit_bytes -= entry.size_bytes
        if limit_bytes < 0:
            break
        count += 1
    return tuple(entries[len(entries) - count :])
