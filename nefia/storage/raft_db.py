"""raft.db as blocking calls: what `lmdb_store` does in its threads (SPEC 6).

LMDB without its lock file leaves one duty to us: a writer may reuse pages that a reader of an
older state still looks at. Pages that the newest committed state uses are never reused by the
transaction that follows it, so it is enough that a writer, before it begins, waits for the reader
of the moment; a reader never waits for a writer, however long its sync hangs.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

import lmdb
from attrs import evolve

from nefia import errors, wire
from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.storage import layout
from nefia.storage.layout import BadChecksum
from nefia.storage.store import Identity, Stored

GROW_BYTES = 1024 * 1024
"""The file grows by so much at a time, ahead of need: a full disk is met before LMDB meets it.

It grows by zeros, not by posix_fallocate: a sync of blocks that were only set aside has to write
the file system's journal too. That took two thirds more time, and at times ten (measured on ext4).
"""

ROOM_BYTES = 1024 * 1024
"""What a transaction may take beside its entries: copies of inner pages, lists of free pages."""

FULL_BELOW_BYTES = 1024 * 1024
"""A file system with less room than this is full, whatever error LMDB makes of it."""

COMPACTED_PER_WRITE = 256
"""How many old entries a write deletes, or twice what it adds; the rest follows later.

Each deletion gives up the interpreter lock; thousands at once would make a write that rests on
this transaction wait for the event loop as often.
"""

_Transaction: TypeAlias = "lmdb.Transaction[bytes]"
_Record: TypeAlias = Identity | HardState | SnapshotMeta

_R = TypeVar("_R", Identity, HardState, SnapshotMeta)

_RECORDS: wire.Codec[_Record] = wire.Codec({1: Identity, 2: HardState, 3: SnapshotMeta})
_ZEROS = bytes(GROW_BYTES)
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.NotFoundError)


def create(path: Path, identity: Identity) -> None:
    """Make the raft.db of a new node, whole and durable before it stands under its name."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with layout.open_environment(unfinished) as environment:
        meta = environment.open_db(layout.META)
        environment.open_db(layout.LOG)
        with environment.begin(meta, write=True) as transaction:
            version = b"%d" % layout.FORMAT_VERSION
            transaction.put(layout.FORMAT, layout.seal(layout.FORMAT, version))
            _put(transaction, layout.IDENTITY, identity)
        environment.sync(True)
    unfinished.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _put(transaction: _Transaction, key: bytes, value: _Record) -> None:
    transaction.put(key, layout.seal(key, _RECORDS.encode(value)))


class RaftDb:
    """One writing and one reading thread at most; `verify` has found the file sound.

    Every method raises `DiskFailed` or `DataDamaged`. After a failed write all further ones are
    refused, for nobody knows what the kernel has kept; a new `RaftDb` reads it again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._failure: errors.NefiaError | None = None
        self._room_bytes = 0
        """Of blocks beyond what LMDB uses, at least."""
        self._environment = layout.open_environment(path)
        self._meta = self._environment.open_db(layout.META, create=False)
        self._log = self._environment.open_db(layout.LOG, create=False)
        self._page_bytes = self._environment.stat()["psize"]
        # What the last process wrote may be in the cache only; nothing may rest on it before this.
        self._environment.sync(True)
        with self._reader() as transaction:
            self._base_index = _index(self._base(transaction))
            identity = self._get(transaction, layout.IDENTITY, Identity)
        if identity is None:
            self._damaged("the identity is missing")
        self.identity = identity
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        with self._reading:
            self._environment.close()
            os.close(self._fd)

    # Reading.

    def load(self, tail_bytes: int) -> Stored:
        """See `LogStore.load`. Reads and checks the whole log."""
        with self._reader() as transaction:
            hard_state = self._get(transaction, layout.HARD_STATE, HardState) or HardState()
            base = self._base(transaction)
            index, term = _index(base), 0
            term_starts: list[tuple[int, int]] = []
            configurations: list[tuple[int, Configuration]] = []
            tail: deque[Entry] = deque()
            tail_size_bytes = 0
            for entry in self._entries(transaction, index + 1):
                index = entry.index
                if entry.term != term:
                    term = entry.term
                    term_starts.append((index, term))
                if isinstance(entry.payload, Configuration):
                    configurations.append((index, entry.payload))
                tail.append(entry)
                tail_size_bytes += entry.size_bytes
                while tail_size_bytes > tail_bytes:
                    tail_size_bytes -= tail.popleft().size_bytes
        return Stored(
            hard_state=hard_state,
            snapshot=base,
            first_index=_index(base) + 1,
            last_index=index,
            term_starts=tuple(term_starts),
            configurations=tuple(configurations),
            tail=tuple(tail),
        )

    def read(self, first: int, last: int, limit_bytes: int) -> tuple[Entry, ...]:
        """See `LogStore.read`."""
        found: list[Entry] = []
        size_bytes = 0
        with self._reader() as transaction:
            if first <= _index(self._base(transaction)):
                raise KeyError(first)
            for entry in islice(self._entries(transaction, first), last + 1 - first):
                size_bytes += entry.size_bytes
                if found and size_bytes > limit_bytes:
                    break
                found.append(entry)
        if not found:
            raise KeyError(first)
        return tuple(found)

    @contextmanager
    def _reader(self) -> Iterator[_Transaction]:
        try:
            with self._reading, self._environment.begin() as transaction:
                yield transaction
        except (lmdb.Error, OSError) as error:
            raise self._translated(error) from error

    def _entries(self, transaction: _Transaction, first: int) -> Iterator[Entry]:
        """The entries from `first` to the newest, each checked; none if the log ends before."""
        cursor = transaction.cursor(self._log)
        if not cursor.set_range(layout.log_key(first)):
            return
        for due, (key, record) in enumerate(cursor, first):
            if key != layout.log_key(due):
                self._damaged(f"entry {due} is missing", index=due)
            yield self._decoded(due, key, record)

    def _decoded(self, index: int, key: bytes, record: bytes) -> Entry:
        try:
            entry = wire.decode_entry(layout.unseal(key, record))
        except (BadChecksum, wire.Malformed):
            self._damaged(f"entry {index} has a bad checksum", index=index)
        assert entry.index == index
        return entry

    def _get(self, transaction: _Transaction, key: bytes, kind: type[_R]) -> _R | None:
        record = transaction.get(key, db=self._meta)
        if record is None:
            return None
        try:
            value = _RECORDS.decode(layout.unseal(key, record))
        except (BadChecksum, wire.Malformed):
            self._damaged(f"the record {key.decode()!r} has a bad checksum")
        assert isinstance(value, kind)
        return value

    def _base(self, transaction: _Transaction) -> SnapshotMeta | None:
        """Where the log begins: entries up to here may still be there, but count no more."""
        return self._get(transaction, layout.SNAPSHOT, SnapshotMeta)

    # Writing.

    def write(self, write: Write) -> None:
        """See `LogStore.write`."""
        indexes = [entry.index for entry in write.entries]
        assert not indexes or indexes == list(range(indexes[0], indexes[-1] + 1)), "a gap"
        records = [_record(entry) for entry in write.entries]
        # A record may fill half of a page that it needs alone.
        room_bytes = sum(2 * len(record) + self._page_bytes for _, record in records)
        self._change(lambda transaction: self._apply(transaction, write, records), room_bytes)

    def join(self, cluster_id: str, lineage: str) -> None:
        """See `LogStore.join`."""
        joined = evolve(self.identity, cluster_id=cluster_id, lineage=lineage)
        self._change(lambda transaction: self._put_meta(transaction, layout.IDENTITY, joined))
        self.identity = joined

    def recover(self, lineage: str, write: Write) -> None:
        """See `LmdbStore.recover`: all of it in one transaction."""
        recovered = evolve(self.identity, lineage=lineage)
        records = [_record(entry) for entry in write.entries]

        def apply(transaction: _Transaction) -> None:
            self._put_meta(transaction, layout.IDENTITY, recovered)
            self._apply(transaction, write, records)

        self._change(apply)
        self.identity = recovered

    def _apply(
        self, transaction: _Transaction, write: Write, records: list[tuple[bytes, bytes]]
    ) -> None:
        if write.hard_state is not None:
            self._put_meta(transaction, layout.HARD_STATE, write.hard_state)
        if write.snapshot is not None:
            transaction.drop(self._log, delete=False)
            self._base_index = write.snapshot.index
        cursor = transaction.cursor(self._log)
        if records:
            self._truncate(cursor, records[0][0])
            end = layout.log_index(cursor.key()) if cursor.last() else self._base_index
            assert write.entries[0].index == end + 1, "a log has no gaps"
            cursor.putmulti(records, append=True)
        base = write.compact or write.snapshot
        if base is not None:
            self._put_meta(transaction, layout.SNAPSHOT, base)
            self._base_index = base.index
        self._compact(cursor, max(COMPACTED_PER_WRITE, 2 * len(records)))

    def _put_meta(self, transaction: _Transaction, key: bytes, value: _Record) -> None:
        transaction.put(key, layout.seal(key, _RECORDS.encode(value)), db=self._meta)

    @staticmethod
    def _truncate(cursor: lmdb.Cursor[bytes], key: bytes) -> None:
        """Delete every entry from `key` on."""
        if cursor.set_range(key):
            while cursor.delete():
                pass

    def _compact(self, cursor: lmdb.Cursor[bytes], limit: int) -> None:
        """Delete up to `limit` of the entries that the base stands for, the oldest first."""
        if not cursor.first():
            return
        for _ in range(min(limit, self._base_index + 1 - layout.log_index(cursor.key()))):
            cursor.delete()

    def _change(self, apply: Callable[[_Transaction], None], room_bytes: int = 0) -> None:
        """One transaction: durable when this returns."""
        if self._failure is not None:
            raise errors.DiskFailed(
                f"Refused, since an earlier write failed. {self._failure.message}",
                full=self._failure.details.get("full", False),
            )
        try:
            self._reserve(room_bytes + ROOM_BYTES)
            with self._reading:
                pass
            with self._environment.begin(write=True) as transaction:
                apply(transaction)
        except (lmdb.Error, OSError) as error:
            self._failure = self._translated(error)
            raise self._failure from error

    def _reserve(self, room_bytes: int) -> None:
        """Have blocks for what the next transaction may need.

        What earlier ones may have needed is taken off without asking, until that is too little.
        """
        self._room_bytes -= room_bytes
        if self._room_bytes >= 0:
            return
        used_bytes = (self._environment.info()["last_pgno"] + 1) * self._page_bytes
        have_bytes = os.fstat(self._fd).st_size
        while have_bytes < used_bytes + room_bytes:
            have_bytes += os.pwrite(self._fd, _ZEROS, have_bytes)
        self._room_bytes = have_bytes - used_bytes - room_bytes

    # Errors.

    def _damaged(self, what: str, index: int | None = None) -> NoReturn:
        raise errors.DataDamaged(f"{self._path} is damaged: {what}", index=index)

    def _translated(self, error: lmdb.Error | OSError) -> errors.NefiaError:
        if isinstance(error, _DAMAGE):
            return errors.DataDamaged(f"{self._path} is damaged: {error}")
        return disk_failed(self._path, error)


def disk_failed(path: Path, error: lmdb.Error | OSError) -> errors.DiskFailed:
    """LMDB reports a full disk as an input/output error, so the file system is asked."""
    number = error.errno if isinstance(error, OSError) else error.code
    full = number in (errno.ENOSPC, errno.EDQUOT) or _free_bytes(path) < FULL_BELOW_BYTES
    if full:
        return errors.DiskFailed(f"No room left on the disk of {path}", full=True)
    return errors.DiskFailed(f"The disk of {path} failed: {error}", full=False)


def _free_bytes(path: Path) -> int:
    try:
        file_system = os.statvfs(path.parent)
    except OSError:
        return FULL_BELOW_BYTES
    return file_system.f_bavail * file_system.f_frsize


def _index(base: SnapshotMeta | None) -> int:
    return base.index if base else 0


def _record(entry: Entry) -> tuple[bytes, bytes]:
    key = layout.log_key(entry.index)
    return key, layout.seal(key, wire.encode_entry(entry))
