"""The snapshots of a real node: `<data-dir>/snapshots/<term>-<index>/`, metadata.json and data.

A directory under such a name is whole and durable: it is written beside, synced, renamed, and the
rename is synced too. Names that begin with a dot are of what is not, or no longer, a snapshot, and
are removed when the store is opened, but for `.incoming`, which a broken transfer goes on with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from nefia import errors
from nefia.storage import files
from nefia.storage.io_thread import IoThread
from nefia.storage.raft_db import disk_failed
from nefia.storage.snapshot_format import (
    Described,
    KindSize,
    Sealer,
    SnapshotInfo,
    damaged,
    data_hasher,
    encode_metadata,
    gone,
    read_metadata,
    read_records,
)
from nefia.storage.snapshots import Build, SnapshotReader, SnapshotWriter, collector_off

SNAPSHOTS_DIRECTORY = "snapshots"
DATA_FILE = "data"
METADATA_FILE = "metadata.json"
NEW_PREFIX, OLD_PREFIX, DAMAGED_PREFIX = ".new-", ".old-", "damaged-"
INCOMING = ".incoming"

SYNC_BYTES = 8 * 1024 * 1024
"""Data are synced in such pieces while they are written: one sync of all of them at the end would
hold up those of the log, which share the disk."""
READ_BUFFER_BYTES = 1024 * 1024

_ID = re.compile(r"[0-9]+-[0-9]+")
_log = structlog.get_logger("nefia.storage")

T = TypeVar("T")


class _DataFile:
    """Data that are being written. `size_bytes` counts what was there before too."""

    def __init__(self, fd: int) -> None:
        self.size_bytes = os.fstat(fd).st_size
        self._fd = fd
        self._unsynced_bytes = 0

    def append(self, data: bytes) -> None:
        files.append(self._fd, data)
        self.size_bytes += len(data)
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        files.sync(self._fd)
        self._unsynced_bytes = 0

    def close(self) -> None:
        os.close(self._fd)


class SnapshotDirectory:
    """Blocking calls, for one thread; the data directory's lock keeps others out.

    Raises DataDamaged, NewerFormat and OSError.
    """

    def __init__(self, path: Path) -> None:
        """Creates the directory if there is none, and removes what a crash has left."""
        self._path = path
        self._incoming: tuple[SnapshotInfo, _DataFile] | None = None
        self.found: tuple[SnapshotInfo, ...] = ()
        """Replaced, never changed: any thread may read it."""
        if not path.is_dir():
            files.make_directory(path)
            files.sync_directory(path.parent)
        for each in path.iterdir():
            if each.name.startswith((NEW_PREFIX, OLD_PREFIX)):
                files.remove(each)
        for each in sorted(path.iterdir()):
            if _ID.fullmatch(each.name):
                self._find(each)

    def close(self) -> None:
        self._drop_incoming()

    def _find(self, path: Path) -> None:
        try:
            info = _described_in(path)
            if info.id != path.name or (path / DATA_FILE).stat().st_size != info.data_bytes:
                raise damaged(str(path), "its data are not those that its metadata describe")
        except (FileNotFoundError, errors.DataDamaged) as error:
            self._set_aside(path, str(error))
        else:
            self._add(info)

    def _add(self, info: SnapshotInfo) -> None:
        others = [each for each in self.found if each.id != info.id]
        self.found = tuple(sorted([*others, info], key=lambda each: each.order, reverse=True))

    def place_of(self, info: SnapshotInfo) -> Path:
        return self._path / info.id

    # Making one.

    def begin(self, snapshot_id: str) -> tuple[Path, _DataFile]:
        path = self._path / f"{NEW_PREFIX}{snapshot_id}"
        files.remove(path)
        files.make_directory(path)
        return path, _DataFile(files.open_new(path / DATA_FILE))

    def complete(self, path: Path, info: SnapshotInfo) -> None:
        """`path` holds the synced data of `info`: make it a snapshot."""
        _write_metadata(path, info)
        files.sync_directory(path)
        files.remove(self.place_of(info))  # of the same state, and known to be of no use
        files.rename(path, self.place_of(info))
        files.sync_directory(self._path)
        self._add(info)

    def prune(self, retain: int) -> None:
        for info in self.found[retain:]:
            old = self._path / f"{OLD_PREFIX}{info.id}"
            self.found = tuple([each for each in self.found if each.id != info.id])
            files.remove(old)
            files.rename(self.place_of(info), old)  # so that no half of it is ever found
            files.remove(old)

    def set_aside(self, info: SnapshotInfo) -> None:
        if info not in self.found:
            return
        self.found = tuple([each for each in self.found if each.id != info.id])
        self._set_aside(self.place_of(info), "its data are damaged")

    def _set_aside(self, path: Path, reason: str) -> None:
        """One damaged snapshot is kept at a time, so that they do not fill the disk."""
        for earlier in self._path.glob(f"{DAMAGED_PREFIX}*"):
            files.remove(earlier)
        kept = self._path / f"{DAMAGED_PREFIX}{path.name}"
        _log.error("snapshot_damaged", snapshot=path.name, kept_as=str(kept), reason=reason)
        files.rename(path, kept)

    # Reading one.

    def open_data(self, info: SnapshotInfo) -> int:
        try:
            return os.open(self.place_of(info) / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise gone(info) from None

    def restore(self, info: SnapshotInfo, build: Build[T]) -> T:
        fd = self.open_data(info)
        with open(fd, "rb", READ_BUFFER_BYTES) as file, collector_off():
            return build(read_records(file, info, str(self.place_of(info) / DATA_FILE)))

    # Taking one in.

    def stage(self, info: SnapshotInfo) -> int:
        if any(each == info for each in self.found):
            self._drop_incoming()
            return info.data_bytes
        path = self._path / INCOMING
        if self._incoming is None or self._incoming[0] != info:
            self._drop_incoming()
            if not _is_staged(path, info):
                files.remove(path)
                files.make_directory(path)
                _write_metadata(path, info)
                files.sync_directory(path)
            self._incoming = info, _DataFile(files.open_end(path / DATA_FILE))
        return self._incoming[1].size_bytes

    def add_staged(self, data: bytes) -> int:
        assert self._incoming is not None, "nothing is staged"
        self._incoming[1].append(data)
        return self._incoming[1].size_bytes

    def adopt(self, info: SnapshotInfo) -> None:
        if any(each == info for each in self.found):
            return
        assert self._incoming is not None, "nothing is staged"
        assert self._incoming[0] == info, "something else is staged"
        self._incoming[1].sync()
        self._drop_incoming()
        path = self._path / INCOMING
        if not _is_whole(path / DATA_FILE, info):
            files.remove(path)
            raise damaged(f"the snapshot {info.id} from another node", "its checksum does not fit")
        self.complete(path, info)

    def _drop_incoming(self) -> None:
        """The file is closed; what it holds stays."""
        if self._incoming is not None:
            self._incoming[1].close()
            self._incoming = None


def _described_in(path: Path) -> SnapshotInfo:
    with (path / METADATA_FILE).open("rb") as file:
        return read_metadata(file, str(path))


def _is_staged(path: Path, info: SnapshotInfo) -> bool:
    try:
        return _described_in(path) == info
    except (FileNotFoundError, errors.DataDamaged, errors.NewerFormat):
        return False


def _is_whole(data: Path, info: SnapshotInfo) -> bool:
    hasher, size_bytes = data_hasher(), 0
    with data.open("rb") as file:
        while piece := file.read(READ_BUFFER_BYTES):
            hasher.update(piece)
            size_bytes += len(piece)
    return size_bytes == info.data_bytes and hasher.digest() == info.data_checksum


def _write_metadata(path: Path, info: SnapshotInfo) -> None:
    fd = files.open_new(path / METADATA_FILE)
    try:
        files.append(fd, encode_metadata(info))
        files.sync(fd)
    finally:
        os.close(fd)


class FileSnapshots:
    """A `SnapshotStore`. One thread does its work, one job after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = IoThread("snapshots")
        self._opened: SnapshotDirectory | None = None

    async def open(self) -> None:
        """To be awaited first. Raises NewerFormat, too."""
        self._opened = await self.do(partial(SnapshotDirectory, self._path))

    @property
    def _directory(self) -> SnapshotDirectory:
        assert self._opened is not None, "not opened yet"
        return self._opened

    async def do(self, job: Callable[[], T]) -> T:
        """What `job` returns or raises, done in the thread; OSError becomes DiskFailed."""
        try:
            return await self._thread.run(job)
        except PermissionError as error:
            raise errors.Permission(f"{error.filename}: {error.strerror}") from error
        except OSError as error:
            raise disk_failed(self._path, error) from error

    @property
    def found(self) -> tuple[SnapshotInfo, ...]:
        return self._directory.found

    async def create(self, described: Described) -> SnapshotWriter:
        snapshot_id = f"{described.place.term}-{described.place.index}"
        path, file = await self.do(partial(self._directory.begin, snapshot_id))
        return _FileWriter(self, self._directory, described, path, file)

    async def reader(self, info: SnapshotInfo) -> SnapshotReader:
        return _FileReader(self, await self.do(partial(self._directory.open_data, info)))

    async def restore(self, info: SnapshotInfo, build: Build[T]) -> T:
        return await self.do(lambda: self._directory.restore(info, build))

    async def set_aside(self, info: SnapshotInfo) -> None:
        await self.do(partial(self._directory.set_aside, info))

    async def prune(self, retain: int) -> None:
        await self.do(partial(self._directory.prune, retain))

    async def stage(self, info: SnapshotInfo) -> int:
        return await self.do(partial(self._directory.stage, info))

    async def add_staged(self, data: bytes) -> int:
        return await self.do(partial(self._directory.add_staged, data))

    async def adopt(self, info: SnapshotInfo) -> None:
        await self.do(partial(self._directory.adopt, info))

    async def close(self) -> None:
        """Ends after the jobs that it has; a caller that is cancelled does not wait for them."""
        try:
            if self._opened is not None:
                await self._thread.run(self._opened.close)
        finally:
            self._thread.stop()


class _FileWriter:
    def __init__(
        self,
        store: FileSnapshots,
        directory: SnapshotDirectory,
        described: Described,
        path: Path,
        file: _DataFile,
    ) -> None:
        self._store = store
        self._directory = directory
        self._described = described
        self._path = path
        self._file = file
        self._sealer = Sealer()

    async def add(self, records: bytes) -> None:
        await self._store.do(lambda: self._file.append(self._sealer.seal(records)))

    async def finish(self, kinds: tuple[KindSize, ...]) -> SnapshotInfo:
        return await self._store.do(partial(self._finish, kinds))

    def _finish(self, kinds: tuple[KindSize, ...]) -> SnapshotInfo:
        self._file.sync()
        self._file.close()
        info = self._sealer.info(self._described, kinds)
        self._directory.complete(self._path, info)
        return info

    async def abandon(self) -> None:
        await self._store.do(self._abandon)

    def _abandon(self) -> None:
        self._file.close()
        files.remove(self._path)


class _FileReader:
    def __init__(self, store: FileSnapshots, fd: int) -> None:
        self._store = store
        self._fd = fd

    async def read(self, offset: int, size_bytes: int) -> bytes:
        return await self._store.do(partial(os.pread, self._fd, size_bytes, offset))

    def close(self) -> None:
        os.close(self._fd)
