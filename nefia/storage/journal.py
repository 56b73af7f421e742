"""raft.journal: where the newest entries are durable until raft.db takes them over.

A transaction of LMDB syncs twice and writes pages in several places. To overwrite the next bytes of
a file whose blocks are all there takes one sync, a third of the processor time and half of the
time on the clock (measured). So what only extends the log is written here, and moves to raft.db
many entries at a time.

The file has one size for ever, and two halves, which take turns: one *generation* of entries fills
one half, and while raft.db takes that over in the background, the next fills the other. raft.db
says which generation is the first that it has not taken over. So nothing is ever erased, and of
what the file holds only the records of that generation and of the one after it count.

A record begins where a block does, for such can be written past the kernel's cache. A disk writes a
sector whole or not at all. Each sector begins with a mark, its generation, so that
a record which a crash has cut off, and which nobody was told of, differs from a damaged one: some
of its sectors are still of an older generation. No other flaw is ever taken for an end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from zlib import crc32

import msgspec
from attrs import define, field

from nefia.errors import DataDamaged
from nefia.storage import layout
from nefia.storage.layout import BadChecksum

JOURNAL_BYTES = 2 * 1024 * 1024
HALF_BYTES = JOURNAL_BYTES // 2
MAX_ENTRIES = 256
"""Of a generation. A transaction gives up the interpreter lock at each that it takes over."""
SECTOR_BYTES = 512
BLOCK_BYTES = 4096
"""Of file systems, and of the disks that have the largest."""

_MARK = struct.Struct(">QQ")
"""A sector's generation and, to tell a damaged mark from an older one, all bits of it inverted."""
_UNWRITTEN = bytes(_MARK.size)
_ALL_BITS = 2**64 - 1

_PLACE = struct.Struct(">QI")
"""Of a record: the index of its first entry, and the bytes of its body."""
_CHECKSUM = struct.Struct(">I")
_HEADER_BYTES = _PLACE.size + _CHECKSUM.size
_CONTENT_BYTES = SECTOR_BYTES - _MARK.size
_SECTORS_OF_A_BLOCK = BLOCK_BYTES // SECTOR_BYTES

Sealed: TypeAlias = tuple[bytes, bytes]
"""An entry as raft.db keeps it: key and record (`layout`)."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode


class _Bad(Exception):
    """In what the file is not as it was written. `index`: of a damaged entry, if it is one."""

    def __init__(self, what: str, index: int | None = None) -> None:
        super().__init__(what)
        self.index = index


class Piece(NamedTuple):
    """Whole blocks of the file that are to be written."""

    offset: int
    data: bytes


@define(eq=False)
class Generation:
    """Entries that raft.db has not taken over. The newest may still be on their way to the disk.

    Never emptied, since another thread may be reading it.
    """

    number: int
    entries: list[Sealed] = field(factory=list)
    size_bytes: int = 0
    """Of its half of the file, so far."""


def may_hold(count: int, size_bytes: int) -> bool:
    """Whether an empty half has room for so many entries. To be asked before they are encoded."""
    return count <= MAX_ENTRIES and size_bytes <= HALF_BYTES


def create(path: Path) -> None:
    """An empty journal, durable but for its name.

    Of zeros: a sync of blocks that were only set aside has to write the file system's journal too.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, bytes(JOURNAL_BYTES), 0)
    finally:
        os.close(fd)


class Journal:
    """An open journal. Methods raise OSError; after one nobody knows what the file holds."""

    generations: tuple[Generation, ...]
    """The one that is being filled, and before it, until `drop_older`, the one before."""

    def __init__(self, path: Path) -> None:
        """Raises `DataDamaged` if there is none. To be followed by `read` and `begin`."""
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DataDamaged(f"{path} is missing") from None

    def close(self) -> None:
        os.close(self._fd)

    def read(self, first: int, after: int) -> None:
        """Find generation `first`, whose entries follow on entry `after`, and the one after it.

        Raises `DataDamaged` if the file is not what was written, since what is not to be seen may
        have been acknowledged; with `index` where that is known.
        """
        data = os.pread(self._fd, JOURNAL_BYTES + 1, 0)
        found: list[Generation] = []
        try:
            if len(data) != JOURNAL_BYTES:
                raise _Bad(f"it is not {JOURNAL_BYTES} bytes long")
            for number in (first, first + 1):
                half = data[_offset(number) :][:HALF_BYTES]
                found.append(Generation(number, list(_entries(half, number, after))))
                after += len(found[-1].entries)
        except _Bad as error:
            raise DataDamaged(f"{self._path} is damaged: {error}", index=error.index) from error
        self.generations = tuple(found)

    def begin(self, number: int) -> None:
        """Nothing in the file counts any more: raft.db has all of it."""
        self.generations = (Generation(number),)

    def drop_older(self) -> None:
        """raft.db has the older of two generations."""
        self.generations = self.generations[-1:]

    def append(self, entries: Sequence[Sealed]) -> Piece | None:
        """What holds `entries`, to be written before anything else; None if there is no room."""
        body = _pack([record for _, record in entries])
        count = _sectors(len(body))
        generation = self._with_room(count * SECTOR_BYTES, len(entries))
        if generation is None:
            return None
        place = _PLACE.pack(layout.log_index(entries[0][0]), len(body))
        content = place + _CHECKSUM.pack(crc32(place)) + body
        content = content.ljust(count * _CONTENT_BYTES, b"\0")
        starts = range(0, len(content), _CONTENT_BYTES)
        sectors = [b"", *[content[at : at + _CONTENT_BYTES] for at in starts]]
        offset = _offset(generation.number) + generation.size_bytes
        generation.size_bytes += count * SECTOR_BYTES
        generation.entries += entries
        return Piece(offset, _mark(generation.number).join(sectors))

    def _with_room(self, size_bytes: int, count: int) -> Generation | None:
        """The newest generation; the next, if that is full and raft.db has the one before it."""
        newest = self.generations[-1]
        if (
            newest.size_bytes + size_bytes <= HALF_BYTES
            and len(newest.entries) + count <= MAX_ENTRIES
        ):
            return newest
        if len(self.generations) > 1 or not may_hold(count, size_bytes):
            return None
        following = Generation(newest.number + 1)
        self.generations = (newest, following)
        return following

    def write(self, piece: Piece) -> None:
        """Durable when it returns."""
        _write(self._fd, piece.data, piece.offset)


def _offset(number: int) -> int:
    return number % 2 * HALF_BYTES


def _mark(number: int) -> bytes:
    return _MARK.pack(number, number ^ _ALL_BITS)


def _sectors(body_bytes: int) -> int:
    """How many a record takes."""
    count = -(-(_HEADER_BYTES + body_bytes) // _CONTENT_BYTES)
    return count + -count % _SECTORS_OF_A_BLOCK


def _write(fd: int, data: bytes, offset: int) -> None:
    """Durable when it returns."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    os.fdatasync(fd)


def _entries(data: bytes, generation: int, after: int) -> Iterator[Sealed]:
    due = after + 1
    for first_index, records in _records(data, generation):
        if first_index != due:
            raise _Bad(f"entry {first_index} stands where entry {due} belongs")
        for record in records:
            key = layout.log_key(due)
            try:
                layout.unseal(key, record)
            except BadChecksum:
                raise _Bad(f"entry {due} has a bad checksum", index=due) from None
            yield key, record
            due += 1


def _records(data: bytes, generation: int) -> Iterator[tuple[int, list[bytes]]]:
    marked = [_is_of(generation, data, at) for at in range(0, len(data), SECTOR_BYTES)]
    sector = 0
    while sector < len(marked) and marked[sector]:
        place = _place(data, sector)
        if place is None:
            raise _Bad(f"sector {sector} begins no record")
        first_index, body_bytes = place
        end = sector + _sectors(body_bytes)
        if not all(marked[sector:end]):
            break
        content = _content(data, sector, end)[_HEADER_BYTES:]
        if any(content[body_bytes:]):
            raise _Bad(f"the record at sector {sector} goes on beyond its end")
        try:
            entries = _unpack(content[:body_bytes])
        except msgspec.MsgspecError as error:
            raise _Bad(f"the record at sector {sector} does not decode: {error}") from None
        yield first_index, entries
        sector = end
    # A record is written when the one before it is durable: behind the last there is no other.
    for later in range(sector + 1, len(marked)):
        if marked[later] and _place(data, later) is not None:
            raise _Bad(f"the record at sector {sector} is not whole, and others follow it")


def _is_of(generation: int, data: bytes, at: int) -> bool:
    """Whether the sector is of `generation`, and not of an older one or unwritten."""
    found, inverted = _MARK.unpack_from(data, at)
    if found == generation and inverted == generation ^ _ALL_BITS:
        return True
    if data[at : at + _MARK.size] == _UNWRITTEN:
        return False
    if inverted != found ^ _ALL_BITS or found > generation:
        raise _Bad(f"sector {at // SECTOR_BYTES} has a mark that nobody has written")
    return False


def _place(data: bytes, sector: int) -> tuple[int, int] | None:
    """What the header of a record says; None if there is none in this sector."""
    at = sector * SECTOR_BYTES + _MARK.size
    place = data[at : at + _PLACE.size]
    if crc32(place) != _CHECKSUM.unpack_from(data, at + _PLACE.size)[0]:
        return None
    first_index, body_bytes = _PLACE.unpack(place)
    return first_index, body_bytes


def _content(data: bytes, sector: int, end: int) -> bytes:
    starts = range(sector * SECTOR_BYTES + _MARK.size, end * SECTOR_BYTES, SECTOR_BYTES)
    return b"".join([data[at : at + _CONTENT_BYTES] for at in starts])
