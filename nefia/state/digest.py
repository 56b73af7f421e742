"""A digest of the whole state that costs only what has changed since it was last asked for.

The digest is the sum modulo 2^256 of one BLAKE2b per record, so that records can come, change and
go in any order. It finds nodes that have diverged by mistake; it is no defence against anyone who
makes up records to match.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Generic, TypeVar

import attrs
import msgpack
import msgspec
from immutables import Map
from msgspec import Struct

K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=attrs.AttrsInstance | Struct)

DIGEST_BYTES = 32
DIGEST_MODULUS = 1 << (8 * DIGEST_BYTES)

MAX_UNCOUNTED_RECORDS = 256
"""Changed records that wait for the digest: a third of a millisecond of hashing, at a time.

More would be hashed less often where the same ones change again and again, and hold up more
changes each time.
"""


_fields: dict[type, Callable[[object], object]] = {}


def _fields_of(record: attrs.AttrsInstance) -> object:
    """The values of the fields of an attrs record, in order; of a single field its value."""
    kind = type(record)
    fields = _fields.get(kind)
    if fields is None:
        names = _names_of(kind)
        fields = _fields[kind] = attrgetter(*names) if names else lambda _: None
    return fields(record)


def _names_of(kind: type[attrs.AttrsInstance | Struct]) -> Sequence[str]:
    if issubclass(kind, Struct):  # a part of a command, in a fingerprint
        return kind.__struct_fields__
    return [field.name for field in attrs.fields(kind)]


def _plain(value: attrs.AttrsInstance | int) -> object:
    """What msgpack has no form for: records, and integers beyond 64 bits.

    No valid command makes such an integer, but a digest that raises would stop the node.
    """
    if isinstance(value, int):
        return str(value)
    return type(value).__name__, _fields_of(value)


_pack: Callable[[object], bytes] = msgpack.Packer(
    default=_plain, unicode_errors="surrogatepass"
).pack
"""One packer for all, since making one takes longer than most of what it does."""

_pack_quickly = msgspec.msgpack.Encoder().encode


def canonical(value: object) -> bytes:
    """The one encoding of a value made of records, tuples, dicts in order and scalars.

    Of one thread at a time: that of the event loop.
    """
    return _pack(value)


def canonical_plain(value: object) -> bytes:
    """As `canonical`, in half the time, for a value without records."""
    try:
        return _pack_quickly(value)
    except (OverflowError, UnicodeEncodeError):
        return canonical(value)


def sum_of(records: Iterable[attrs.AttrsInstance | Struct | None]) -> int:
    """Of the hashes of records, all of one kind; None is no record.

    A hash is over the name of the kind and the record. It goes on from a copy of one that has begun
    with the name, and that is a third quicker than to begin each.
    """
    present = [record for record in records if record is not None]
    if not present:
        return 0
    begun = blake2b(type(present[0]).__name__.encode(), digest_size=DIGEST_BYTES)
    total = 0
    for record in present:
        try:
            encoded = _pack_quickly(record)
        except (OverflowError, UnicodeEncodeError):
            encoded = canonical(record)
        hasher = begun.copy()
        hasher.update(encoded)
        total += int.from_bytes(hasher.digest())
    return total


class Counted(Generic[K, R]):
    """Records of one kind by their key, and the sum of their hashes.

    Whoever changes a record notes in `_uncounted` what the sum has of it: nothing for a new one.
    `observe(old, new)` is called with each change, if anybody has set it; None is no record.
    """

    def __init__(self) -> None:
        self.observe: Callable[[R | None, R | None], object] | None = None
        self._sum = 0
        self._uncounted: dict[K, R | None] = {}

    def all_of(self, keys: Iterable[K]) -> Iterable[R | None]:
        """The records of these keys, None where there is none."""
        raise NotImplementedError

    def digest(self) -> int:
        if changed := self._uncounted:
            self._sum += sum_of(self.all_of(changed)) - sum_of(changed.values())
            changed.clear()
        self._sum %= DIGEST_MODULUS
        return self._sum


class Table(Counted[K, R]):
    """A persistent map: `records` may be kept by anyone as a snapshot.

    Its iteration order differs between processes.
    """

    def __init__(self, records: Iterable[tuple[K, R]] = ()) -> None:
        super().__init__()
        self.records: Map[K, R] = Map(records)
        self._sum = sum_of(self.records.values())

    def all_of(self, keys: Iterable[K]) -> Iterable[R | None]:
        return map(self.records.get, keys)

    def put(self, key: K, record: R) -> None:
        before = self.records.get(key)
        self._uncounted.setdefault(key, before)
        self.records = self.records.set(key, record)
        if self.observe is not None:
            self.observe(before, record)
        if len(self._uncounted) > MAX_UNCOUNTED_RECORDS:
            self.digest()

    def remove(self, key: K) -> R:
        """Take out the record of `key`, which must be there, and return it."""
        record = self.records[key]
        if self._uncounted.setdefault(key, record) is None:
            del self._uncounted[key]
        self.records = self.records.delete(key)
        if self.observe is not None:
            self.observe(record, None)
        return record
