"""What a snapshot consists of: data in chunks, and metadata that describes and seals them. No I/O.

The data are the records of the state as `nefia.wire` encodes them, each behind its length, in
chunks. A chunk is a header (its length, a checksum over its number and body) and a body, compressed
with Zstandard. The metadata are one line of JSON and one with its checksum, so that an operator can
read them. A saved snapshot (`nefia snapshot save`) is one file: the metadata, then the data.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import BinaryIO, TypeAlias

import zstandard
from attrs import frozen

from nefia.errors import DataDamaged, NewerFormat, NotFound
from nefia.raft.entries import SnapshotMeta
from nefia.state.records import KINDS, Record
from nefia.wire import RECORDS, Codec, Malformed

SNAPSHOT_FORMAT = 1
"""Raised when this layout or what `nefia.wire` makes of a record changes."""

CHUNK_BYTES = 128 * 1024
"""A chunk is full with so many bytes of records, or one record more."""
MAX_CHUNK_BYTES = 16 * 1024 * 1024
"""Of a chunk, compressed or not, when it is read. The largest record has below 2 MiB."""
MAX_METADATA_BYTES = 1024 * 1024
COMPRESSION_LEVEL = 1
CHECKSUM_BYTES = 16
DATA_CHECKSUM_BYTES = 32

_CHUNK = struct.Struct(f">I{CHECKSUM_BYTES}s")
_LENGTH = struct.Struct(">I")
_NAMES = {kind: name for name, kind in KINDS.items()}

Records: TypeAlias = Iterable[tuple[str, Record]]


@frozen
class Described:
    """What a snapshot is a snapshot of. `cluster_ms` is the cluster time of the state."""

    place: SnapshotMeta
    cluster_id: str
    cluster_ms: int
    version: str
    """Of the nefia that made it."""


@frozen
class KindSize:
    """How many records of a kind there are, and their bytes before compression."""

    kind: str
    count: int
    size_bytes: int


@frozen
class SnapshotInfo:
    """A snapshot that is complete. `data_checksum` is the BLAKE2b of the whole data file.

    Sent to other nodes before the data: fields may be added only at the end and with a default.
    """

    described: Described
    kinds: tuple[KindSize, ...]
    data_bytes: int
    data_checksum: bytes

    @property
    def place(self) -> SnapshotMeta:
        return self.described.place

    @property
    def id(self) -> str:
        return f"{self.place.term}-{self.place.index}"

    @property
    def order(self) -> tuple[int, int]:
        """Larger is newer."""
        return self.place.index, self.place.term


INFOS: Codec[SnapshotInfo] = Codec({1: SnapshotInfo})
"""For the metadata, and for what a leader offers to a follower."""


# Records and chunks.


def encode_record(record: Record) -> bytes:
    body = RECORDS.encode(record)
    return _LENGTH.pack(len(body)) + body


def kind_of(record: Record) -> str:
    return _NAMES[type(record)]


def seal_chunk(number: int, records: bytes) -> bytes:
    """The chunk `number`, counted from 0, of encoded records. Compresses: for a thread."""
    body = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(records)
    return _CHUNK.pack(len(body), _chunk_checksum(number, body)) + body


def _chunk_checksum(number: int, body: bytes) -> bytes:
    return blake2b(number.to_bytes(8) + body, digest_size=CHECKSUM_BYTES).digest()


def data_hasher() -> blake2b:
    return blake2b(digest_size=DATA_CHECKSUM_BYTES)


def read_records(file: BinaryIO, info: SnapshotInfo, where: str) -> Iterator[tuple[str, Record]]:
    """The records of a data file, each checked before it is given out.

    Raises DataDamaged, which names `where`, for a chunk that is not as it was written and for data
    that are shorter, longer or other than `info` says.
    """
    decompressor = zstandard.ZstdDecompressor()
    hasher, found = data_hasher(), Counter[str]()
    number = 0
    while header := file.read(_CHUNK.size):
        body = _body_of(file, header, number)
        if body is None:
            raise damaged(where, f"chunk {number} has a bad checksum")
        hasher.update(header)
        hasher.update(body)
        try:
            if not 0 <= zstandard.frame_content_size(body) <= MAX_CHUNK_BYTES:
                raise damaged(where, f"chunk {number} is too large")
            records = _records_of(decompressor.decompress(body))
        except (zstandard.ZstdError, struct.error, Malformed) as error:
            raise damaged(where, f"chunk {number} does not decode: {error}") from error
        number += 1
        kinds = [_NAMES[type(record)] for record in records]
        found.update(kinds)
        yield from zip(kinds, records, strict=True)
    expected = Counter({size.kind: size.count for size in info.kinds})
    if hasher.digest() != info.data_checksum or found != expected:
        raise damaged(where, "it is not the data that its metadata describe")


def _body_of(file: BinaryIO, header: bytes, number: int) -> bytes | None:
    """The body behind `header`; None if it is not what was written there."""
    if len(header) < _CHUNK.size:
        return None
    size_bytes, checksum = _CHUNK.unpack(header)
    if size_bytes > MAX_CHUNK_BYTES:
        return None
    body = file.read(size_bytes)
    return body if _chunk_checksum(number, body) == checksum else None


def _records_of(raw: bytes) -> list[Record]:
    encoded: list[bytes] = []
    offset = 0
    while offset < len(raw):
        begin = offset + _LENGTH.size
        offset = begin + _LENGTH.unpack_from(raw, offset)[0]
        encoded.append(raw[begin:offset])
    return RECORDS.decode_all(encoded)


def damaged(where: str, what: str) -> DataDamaged:
    return DataDamaged(f"{where} is damaged: {what}")


def gone(info: SnapshotInfo) -> NotFound:
    return NotFound(f"the snapshot {info.id} is no longer there: newer ones have taken its place")


# Metadata.


def encode_metadata(info: SnapshotInfo) -> bytes:
    """What people want to know, and under `info` all of it for `read_metadata`."""
    value = {
        "format": SNAPSHOT_FORMAT,
        "id": info.id,
        "cluster_id": info.described.cluster_id,
        "index": info.place.index,
        "term": info.place.term,
        "version": info.described.version,
        "members": sorted(info.place.configuration.ids),
        "kinds": {each.kind: [each.count, each.size_bytes] for each in info.kinds},
        "data_bytes": info.data_bytes,
        "info": INFOS.encode(info).hex(),
    }
    line = json.dumps(value).encode()
    return line + b"\n" + _metadata_checksum(line) + b"\n"


def _metadata_checksum(line: bytes) -> bytes:
    return blake2b(line, digest_size=CHECKSUM_BYTES).hexdigest().encode()


def read_metadata(file: BinaryIO, where: str) -> SnapshotInfo:
    """What stands at the beginning of `file`. Raises DataDamaged and NewerFormat."""
    line = file.readline(MAX_METADATA_BYTES).removesuffix(b"\n")
    checksum = file.readline(2 * CHECKSUM_BYTES + 1)
    if checksum != _metadata_checksum(line) + b"\n":
        raise damaged(where, "its metadata have a bad checksum")
    try:
        value = json.loads(line)
        version = int(value["format"])
        if version > SNAPSHOT_FORMAT:
            raise NewerFormat(
                f"{where} has format {version}, this nefia knows up to {SNAPSHOT_FORMAT}",
                hint="Run the newer nefia that wrote it.",
            )
        return INFOS.decode(bytes.fromhex(value["info"]))
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise damaged(where, f"its metadata do not decode: {error!r}") from error


class Encoder:
    """Records in, encoded chunks out, a slice at a time: whoever calls decides when to go on.

    The records are read while the state goes on changing: they have to be a reference to it as it
    was (`Machine.snapshot_records`).
    """

    def __init__(self, records: Records) -> None:
        self._records = iter(records)
        self._counts = dict.fromkeys(KINDS, 0)
        self._bytes = dict.fromkeys(KINDS, 0)

    def next_chunk(self) -> bytes:
        """The encoded records of one chunk; empty when there are no more. Some 0.5 ms."""
        parts: list[bytes] = []
        size_bytes = 0
        for kind, record in self._records:
            part = encode_record(record)
            parts.append(part)
            self._counts[kind] += 1
            self._bytes[kind] += len(part)
            size_bytes += len(part)
            if size_bytes >= CHUNK_BYTES:
                break
        return b"".join(parts)

    @property
    def kinds(self) -> tuple[KindSize, ...]:
        """Of what has been given out."""
        return tuple([KindSize(k, n, self._bytes[k]) for k, n in self._counts.items() if n])


class Sealer:
    """Encoded chunks in, the bytes of the data file out; for a thread."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._number = 0
        self._hasher = data_hasher()

    def seal(self, records: bytes) -> bytes:
        chunk = seal_chunk(self._number, records)
        self._number += 1
        self._hasher.update(chunk)
        self.size_bytes += len(chunk)
        return chunk

    def info(self, described: Described, kinds: tuple[KindSize, ...]) -> SnapshotInfo:
        return SnapshotInfo(described, kinds, self.size_bytes, self._hasher.digest())
