"""The one protocol behind which `snapshot_files` and its twin in memory stand (SPEC 6).

A snapshot is either whole and durable under its id or not there at all. What comes in from another
node is staged: it survives a restart and grows until it is whole, then it is adopted or dropped.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from nefia.storage.snapshot_format import Described, KindSize, Records, SnapshotInfo

T = TypeVar("T")

Build = Callable[[Records], T]
"""Makes something of the records of a snapshot, in the order in which they were written."""


class SnapshotWriter(Protocol):
    """A snapshot in the making. Either `finish` or `abandon` ends it."""

    async def add(self, records: bytes) -> None:
        """The encoded records of one chunk (`Encoder.next_chunk`)."""
        ...

    async def finish(self, kinds: tuple[KindSize, ...]) -> SnapshotInfo:
        """Whole and durable when it returns."""
        ...

    async def abandon(self) -> None: ...


class SnapshotReader(Protocol):
    """The bytes of one data file; they stay readable even if the snapshot is pruned meanwhile."""

    async def read(self, offset: int, size_bytes: int) -> bytes: ...

    def close(self) -> None: ...


class SnapshotStore(Protocol):
    """The snapshots of one node. Methods that wait for the disk do so in a thread.

    Each of these raises DiskFailed. That is no fault of the log: the node may go on without a
    snapshot, and try again.
    """

    @property
    def found(self) -> tuple[SnapshotInfo, ...]:
        """All that are whole, the newest first."""
        ...

    async def create(self, described: Described) -> SnapshotWriter: ...

    async def reader(self, info: SnapshotInfo) -> SnapshotReader:
        """Raises NotFound if it has been pruned or set aside meanwhile."""
        ...

    async def restore(self, info: SnapshotInfo, build: Build[T]) -> T:
        """`build(records)`; every record is checked. Raises DataDamaged and what `build` raises,
        and NotFound if it has been pruned or set aside meanwhile.

        A real store calls it in its thread, without the garbage collector.
        """
        ...

    async def set_aside(self, info: SnapshotInfo) -> None:
        """It is damaged: it counts no more, and is kept for whoever wants to look at it.

        Nothing happens if it is no longer there.
        """
        ...

    async def prune(self, retain: int) -> None:
        """Keep the newest `retain`."""
        ...

    async def stage(self, info: SnapshotInfo) -> int:
        """How many bytes of exactly these data are here; all of them if it has been adopted.

        What was staged of any other snapshot is dropped.
        """
        ...

    async def add_staged(self, data: bytes) -> int:
        """The data go on so; returns how many bytes there are now. After `stage` only."""
        ...

    async def adopt(self, info: SnapshotInfo) -> None:
        """What is staged, if it is whole, becomes one of the snapshots, durably.

        Raises DataDamaged, and drops it, if it is not what `info` says.
        """
        ...


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector from looking again and again through what is being made.

    It would take more than twice the time, and hold up the event loop at each look. Afterwards
    all that there is counts as lasting (`gc.freeze`), since the state does.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
