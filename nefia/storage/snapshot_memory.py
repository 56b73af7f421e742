"""The twin of `snapshot_files` for simulation: on the same disk in memory as the log."""

from __future__ import annotations

from io import BytesIO
from random import Random
from typing import TYPE_CHECKING, TypeVar

from nefia.storage.snapshot_format import (
    Described,
    KindSize,
    Sealer,
    SnapshotInfo,
    damaged,
    data_hasher,
    gone,
    read_records,
)
from nefia.storage.snapshots import Build

if TYPE_CHECKING:
    from nefia.storage.memory import MemoryStore

T = TypeVar("T")


class Shelf:
    """What of the snapshots survives a crash."""

    def __init__(self) -> None:
        self.snapshots: dict[str, tuple[SnapshotInfo, bytes]] = {}
        self.staged: tuple[SnapshotInfo, bytearray] | None = None

    def crash(self, random: Random) -> None:
        """The end of what was coming in may not have reached the disk."""
        if self.staged is not None:
            data = self.staged[1]
            del data[random.randint(0, len(data)) :]

    def damage(self, random: Random) -> None:
        """Of the newest snapshot some byte is not what it was."""
        info, data = max(self.snapshots.values(), key=lambda each: each[0].order)
        spoilt = bytearray(data)
        spoilt[random.randrange(len(spoilt))] ^= 0xFF
        self.snapshots[info.id] = info, bytes(spoilt)


class MemorySnapshots:
    """A `SnapshotStore`. Each step takes the time of a write and meets the faults of the disk."""

    def __init__(self, store: MemoryStore, shelf: Shelf) -> None:
        self._store = store
        self._shelf = shelf

    @property
    def found(self) -> tuple[SnapshotInfo, ...]:
        infos = [info for info, _ in self._shelf.snapshots.values()]
        return tuple(sorted(infos, key=lambda info: info.order, reverse=True))

    async def create(self, described: Described) -> _MemoryWriter:
        await self.step()
        return _MemoryWriter(self, self._shelf, described)

    async def step(self) -> None:
        await self._store.step()

    async def reader(self, info: SnapshotInfo) -> _MemoryReader:
        await self.step()
        return _MemoryReader(self, self._data(info))

    async def restore(self, info: SnapshotInfo, build: Build[T]) -> T:
        await self.step()
        return build(read_records(BytesIO(self._data(info)), info, f"the snapshot {info.id}"))

    def _data(self, info: SnapshotInfo) -> bytes:
        if info.id not in self._shelf.snapshots:
            raise gone(info)
        return self._shelf.snapshots[info.id][1]

    async def set_aside(self, info: SnapshotInfo) -> None:
        await self.step()
        self._shelf.snapshots.pop(info.id, None)

    async def prune(self, retain: int) -> None:
        await self.step()
        for info in self.found[retain:]:
            del self._shelf.snapshots[info.id]

    async def stage(self, info: SnapshotInfo) -> int:
        await self.step()
        if self._adopted(info):
            self._shelf.staged = None
            return info.data_bytes
        staged = self._shelf.staged
        if staged is None or staged[0] != info:
            self._shelf.staged = staged = info, bytearray()
        return len(staged[1])

    async def add_staged(self, data: bytes) -> int:
        await self.step()
        assert self._shelf.staged is not None
        self._shelf.staged[1].extend(data)
        return len(self._shelf.staged[1])

    async def adopt(self, info: SnapshotInfo) -> None:
        await self.step()
        if self._adopted(info):
            return
        assert self._shelf.staged is not None
        staged, data = self._shelf.staged
        assert staged == info
        self._shelf.staged = None
        hasher = data_hasher()
        hasher.update(data)
        if hasher.digest() != info.data_checksum:
            raise damaged(f"the snapshot {info.id} from another node", "its checksum does not fit")
        self._shelf.snapshots[info.id] = info, bytes(data)

    def _adopted(self, info: SnapshotInfo) -> bool:
        return info.id in self._shelf.snapshots and self._shelf.snapshots[info.id][0] == info


class _MemoryWriter:
    def __init__(self, store: MemorySnapshots, shelf: Shelf, described: Described) -> None:
        self._store = store
        self._shelf = shelf
        self._described = described
        self._sealer = Sealer()
        self._data = bytearray()

    async def add(self, records: bytes) -> None:
        await self._store.step()
        self._data += self._sealer.seal(records)

    async def finish(self, kinds: tuple[KindSize, ...]) -> SnapshotInfo:
        await self._store.step()
        info = self._sealer.info(self._described, kinds)
        self._shelf.snapshots[info.id] = info, bytes(self._data)
        return info

    async def abandon(self) -> None:
        await self._store.step()


class _MemoryReader:
    def __init__(self, store: MemorySnapshots, data: bytes) -> None:
        self._store = store
        self._data = data

    async def read(self, offset: int, size_bytes: int) -> bytes:
        await self._store.step()
        return self._data[offset : offset + size_bytes]

    def close(self) -> None:
        pass
