"""raft.db and its journal as blocking calls: what `lmdb_store` does in its threads (SPEC 6).

What only extends the log becomes durable in the journal. Everything else is a transaction of
raft.db, and each of those takes over what the journal holds.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

import lmdb
from attrs import evolve
from outcome import Outcome

from nefia import errors, wire
from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.storage import files, journal, layout
from nefia.storage.journal import Generation, Journal, Piece, Sealed
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
"""How many old entries a transaction deletes, or twice what it adds; the rest follows later.

Each deletion gives up the interpreter lock; thousands at once would make a write that rests on
this transaction wait for the event loop as often.
"""

FIRST_GENERATION = 1

_Transaction: TypeAlias = "lmdb.Transaction[bytes]"
_Database: TypeAlias = "lmdb._Database"
_Record: TypeAlias = Identity | HardState | SnapshotMeta

_R = TypeVar("_R", Identity, HardState, SnapshotMeta)
_T = TypeVar("_T")

_RECORDS: wire.Codec[_Record] = wire.Codec({1: Identity, 2: HardState, 3: SnapshotMeta})
_ZEROS = bytes(GROW_BYTES)
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.NotFoundError)


def create(path: Path, identity: Identity) -> None:
    """Make the raft.db of a new node, whole and durable before it stands under its name."""
    journal.create(path.with_name(layout.JOURNAL_FILE))
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with layout.open_environment(unfinished) as environment:
        meta = environment.open_db(layout.META)
        environment.open_db(layout.LOG)
        with environment.begin(meta, write=True) as transaction:
            _put(transaction, meta, layout.FORMAT, layout.FORMAT_VERSION)
            _put(transaction, meta, layout.GENERATION, FIRST_GENERATION)
            _put(transaction, meta, layout.IDENTITY, identity)
        environment.sync(True)
    unfinished.rename(path)
    files.sync_directory(path.parent)


def _put(transaction: _Transaction, meta: _Database, key: bytes, value: _Record | int) -> None:
    body = b"%d" % value if isinstance(value, int) else _RECORDS.encode(value)
    transaction.put(key, layout.seal(key, body), db=meta)


class RaftDb:
    """One writing and one reading thread at most; `verify` has found the file sound.

    Every method raises `DiskFailed` or `DataDamaged`. After a failed write all further ones are
    refused, for nobody knows what the kernel has kept; a new `RaftDb` reads it again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._failure: errors.NefiaError | None = None
        self._may_append = False
        """Whether raft.db has blocks for all that the journal can hold."""
        self._environment = layout.open_environment(path)
        self._meta = self._environment.open_db(layout.META, create=False)
        self._log = self._environment.open_db(layout.LOG, create=False)
        self._page_bytes = self._environment.stat()["psize"]
        # What the last process wrote may be in the cache only; nothing may rest on it before this.
        self._environment.sync(True)
        with self._reader() as transaction:
            self._base_index = _index(self._base(transaction))
            identity = self._get(transaction, layout.IDENTITY, Identity)
            format_version = self._number(transaction, layout.FORMAT)
            generation = self._number(transaction, layout.GENERATION)
            self._last_index = self._last_in(transaction.cursor(self._log))
        if identity is None:
            self._damaged("the identity is missing")
        if generation is None and format_version != layout.FORMAT_WITHOUT_JOURNAL:
            self._damaged("the generation of its journal is missing")
        self.identity = identity
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        with self._writing():
            self._open_journal(path.with_name(layout.JOURNAL_FILE), generation)

    def _open_journal(self, path: Path, generation: int | None) -> None:
        """Take over what the last process has left there. None: raft.db has had no journal yet."""
        if generation is None:
            generation = FIRST_GENERATION
            journal.create(path)
            files.sync_directory(path.parent)
        self._journal = Journal(path)
        self._journal.read(generation, self._last_index)
        self._last_index += len(self._pending)

        # Though there may be nothing to take over: a record that was cut off must not stand in the
        # way of the next ones.
        with self._environment.begin(write=True) as transaction:
            number = self._take_all(transaction)
            _put(transaction, self._meta, layout.FORMAT, layout.FORMAT_VERSION)
        self._journal.begin(number)

    @property
    def _pending(self) -> list[Sealed]:
        """What the journal holds and raft.db does not."""
        return [sealed for each in self._journal.generations for sealed in each.entries]

    def close(self) -> None:
        """What is durable is so without it; raft.db then has all of it."""
        with suppress(errors.NefiaError):
            self.settle()
        with self._reading:
            self._environment.close()
            self._journal.close()
            os.close(self._fd)

    # Reading.

    def load(self, tail_bytes: int) -> Stored:
        """See `LogStore.load`. Reads and checks the whole log."""
        generations = self._journal.generations
        with self._reader() as transaction:
            hard_state = self._get(transaction, layout.HARD_STATE, HardState) or HardState()
            base = self._base(transaction)
            index, term = _index(base), 0
            term_starts: list[tuple[int, int]] = []
            configurations: list[tuple[int, Configuration]] = []
            tail: deque[Entry] = deque()
            tail_size_bytes = 0
            for entry in self._entries(transaction, generations, index + 1):
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
        generations = self._journal.generations
        with self._reader() as transaction:
            if first <= _index(self._base(transaction)):
                raise KeyError(first)
            entries = self._entries(transaction, generations, first)
            for entry in islice(entries, last + 1 - first):
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

    def _entries(
        self, transaction: _Transaction, generations: Sequence[Generation], first: int
    ) -> Iterator[Entry]:
        """The entries from `first` to the newest, each checked; none if the log ends before.

        `generations`: from before the transaction began, which lacks what it has not taken over.
        Of what it has, some may have been truncated since.
        """
        start = layout.log_key(first)
        cursor = transaction.cursor(self._log)
        found: Iterable[Sealed] = cursor if cursor.set_range(start) else ()
        due_generation = self._number(transaction, layout.GENERATION) or FIRST_GENERATION
        for generation in generations:
            if generation.number >= due_generation:
                pending = [sealed for sealed in generation.entries if sealed[0] >= start]
                found = chain(found, pending)
        for due, (key, record) in enumerate(found, first):
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
        value = self._parsed(transaction, key, _RECORDS.decode)
        assert value is None or isinstance(value, kind)
        return value

    def _number(self, transaction: _Transaction, key: bytes) -> int | None:
        return self._parsed(transaction, key, int)

    def _parsed(
        self, transaction: _Transaction, key: bytes, parse: Callable[[bytes], _T]
    ) -> _T | None:
        record = transaction.get(key, db=self._meta)
        try:
            return None if record is None else parse(layout.unseal(key, record))
        except (BadChecksum, wire.Malformed):
            self._damaged(f"the record {key.decode()!r} has a bad checksum")

    def _last_in(self, cursor: lmdb.Cursor[bytes]) -> int:
        """The index of the newest entry, or the base's."""
        return layout.log_index(cursor.key()) if cursor.last() else self._base_index

    def _base(self, transaction: _Transaction) -> SnapshotMeta | None:
        """Where the log begins: entries up to here may still be there, but count no more."""
        return self._get(transaction, layout.SNAPSHOT, SnapshotMeta)

    # Writing.

    def write(self, write: Write) -> None:
        """See `LogStore.write`."""
        piece = self.begin_write(write)
        if piece is not None:
            self.write_piece(piece)
            return
        records = [_record(entry) for entry in write.entries]
        self._change(lambda transaction: self._apply(transaction, write, records), records)

    def begin_write(self, write: Write) -> Piece | None:
        """What has to be written to the journal, and nothing else, to make `write` durable.

        None if it takes more, which is up to `write`. For the event loop too, while no thread
        writes: it waits for nothing.
        """
        entries = write.entries
        first, last = (entries[0].index, entries[-1].index) if entries else (0, -1)
        assert last - first == len(entries) - 1, "a gap"
        if not self._is_for_the_journal(write):
            return None
        records = [_record(entry) for entry in entries]
        piece = self._journal.append(records)
        if piece is not None:
            self._last_index += len(records)
        return piece

    def write_piece(self, piece: Piece) -> None:
        """Durable when it returns."""
        with self._writing():
            self._journal.write(piece)

    def piece_written(self, result: Outcome[None]) -> None:
        """The event loop has done as `write_piece`, with this result. Raises as that would."""
        with self._writing():
            result.unwrap()

    def _is_for_the_journal(self, write: Write) -> bool:
        return (
            self._may_append
            and self._failure is None
            and bool(write.entries)
            and write.entries[0].index == self._last_index + 1
            and write.hard_state is None
            and write.snapshot is None
            and write.compact is None
            and journal.may_hold(len(write.entries), sum(e.size_bytes for e in write.entries))
        )

    @property
    def must_take_over(self) -> bool:
        """Whether `take_over` is due. Until it is done the journal's other half must last."""
        return len(self._journal.generations) > 1

    def take_over(self) -> None:
        """Have what fills one half of the journal in raft.db, while writes go on to the other."""
        if not self.must_take_over:
            return
        older, newer = self._journal.generations
        with self._transaction() as transaction:
            cursor = transaction.cursor(self._log)
            cursor.putmulti(older.entries, append=True)
            _put(transaction, self._meta, layout.GENERATION, newer.number)
            self._compact(cursor, len(older.entries))
        self._journal.drop_older()

    def settle(self) -> None:
        """Have all entries in raft.db, and the journal empty."""
        if self._pending:
            self._change(lambda transaction: self._apply(transaction, Write(sequence=0), []))

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

        self._change(apply, records)
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
            assert write.entries[0].index == self._last_in(cursor) + 1, "a log has no gaps"
            cursor.putmulti(records, append=True)
        base = write.compact or write.snapshot
        if base is not None:
            self._put_meta(transaction, layout.SNAPSHOT, base)
            self._base_index = base.index
        self._last_index = self._last_in(cursor)
        self._compact(cursor, len(records) + len(self._pending))

    def _put_meta(self, transaction: _Transaction, key: bytes, value: _Record) -> None:
        _put(transaction, self._meta, key, value)

    @staticmethod
    def _truncate(cursor: lmdb.Cursor[bytes], key: bytes) -> None:
        """Delete every entry from `key` on."""
        if cursor.set_range(key):
            while cursor.delete():
                pass

    def _compact(self, cursor: lmdb.Cursor[bytes], added: int) -> None:
        """Delete some of the entries that the base stands for, the oldest first."""
        if not cursor.first():
            return
        limit = max(COMPACTED_PER_WRITE, 2 * added)
        for _ in range(min(limit, self._base_index + 1 - layout.log_index(cursor.key()))):
            cursor.delete()

    def _change(
        self, apply: Callable[[_Transaction], None], records: Sequence[Sealed] = ()
    ) -> None:
        """One transaction, which adds all that is pending, and `records`. The journal is empty."""
        with self._transaction(records) as transaction:
            number = self._take_all(transaction)
            apply(transaction)
        self._journal.begin(number)

    def _take_all(self, transaction: _Transaction) -> int:
        """Returns the number of the journal's next generation.

        It leaves one out, so that a raft.db that was put back from before is noticed: it finds
        marks that nobody can have written.
        """
        if pending := self._pending:
            transaction.cursor(self._log).putmulti(pending, append=True)
        number = self._journal.generations[-1].number + 2
        _put(transaction, self._meta, layout.GENERATION, number)
        return number

    @contextmanager
    def _transaction(self, records: Sequence[Sealed] = ()) -> Iterator[_Transaction]:
        """Room for what is pending and `records`, and a transaction, durable when this ends."""
        with self._writing():
            self._reserve(records)
            self._may_append = True
            with self._reading:
                pass
            with self._environment.begin(write=True) as transaction:
                yield transaction

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Refuse whatever comes after a failure."""
        if self._failure is not None:
            raise errors.DiskFailed(
                f"Refused, since an earlier write failed. {self._failure.message}",
                full=self._failure.details.get("full", False),
            )
        try:
            yield
        except (lmdb.Error, OSError) as error:
            self._failure = self._translated(error)
            raise self._failure from error

    def _reserve(self, records: Sequence[Sealed]) -> None:
        """Have blocks for what a transaction adds, and for all that the journal can hold after it.

        So what is appended there meets no full disk, neither at once nor when it is taken over.
        """
        used_bytes = (self._environment.info()["last_pgno"] + 1) * self._page_bytes
        added = [len(record) for _, record in chain(self._pending, records)]
        needed_bytes = used_bytes + ROOM_BYTES
        needed_bytes += self._room_bytes(len(added), sum(added))
        needed_bytes += self._room_bytes(2 * journal.MAX_ENTRIES, journal.JOURNAL_BYTES)
        have_bytes = os.fstat(self._fd).st_size
        while have_bytes < needed_bytes:
            have_bytes += os.pwrite(self._fd, _ZEROS, have_bytes)

    def _room_bytes(self, count: int, size_bytes: int) -> int:
        """For so many records: each may fill half of a page, or need another for its last byte."""
        return 2 * size_bytes + count * self._page_bytes

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
