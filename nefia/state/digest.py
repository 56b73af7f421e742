"""A digest of the whole state that costs only what has changed since it was last asked for.

The digest is the sum modulo 2^256 of one BLAKE2b per record, so that records can come, change and
go in any order. It finds nodes that have diverged by mistake; it is no defence against anyone who
makes up records to match.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b
from operator import attrgetter
from typing import Generic, TypeVar

import attrs
import msgpack
from immutables import Map

K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=attrs.AttrsInstance)

DIGEST_BYTES = 32
DIGEST_MODULUS = 1 << (8 * DIGEST_BYTES)

MAX_UNCOUNTED_RECORDS = 1024
"""Changed records that wait for the digest; some milliseconds of hashing."""


_fields: dict[type, Callable[[object], object]] = {}


def _fields_of(record: attrs.AttrsInstance) -> object:
    """The values of the fields of an attrs record, in order; of a single field its value."""
    kind = type(record)
    if kind not in _fields:
        names = [field.name for field in attrs.fields(kind)]
        _fields[kind] = attrgetter(*names) if names else lambda _: None
    return _fields[kind](record)


def _plain(value: attrs.AttrsInstance | int) -> object:
    """What msgpack has no form for: records, and integers beyond 64 bits.

    No valid command makes such an integer, but a digest that raises would stop the node.
    """
    if isinstance(value, int):
        return str(value)
    return type(value).__name__, _fields_of(value)


def canonical(value: object) -> bytes:
    """The one encoding of a value made of attrs records, tuples, dicts in order and scalars."""
    packed: bytes = msgpack.packb(value, default=_plain, unicode_errors="surrogatepass")
    return packed


def hash_of(record: attrs.AttrsInstance) -> int:
    return int.from_bytes(blake2b(canonical(_plain(record)), digest_size=DIGEST_BYTES).digest())


class Table(Generic[K, R]):
    """The records of one kind by their key: a persistent map that knows its digest.

    `records` may be kept by anyone as a snapshot. Its iteration order differs between processes.
    """

    def __init__(self, records: Iterable[tuple[K, R]] = ()) -> None:
        self.records: Map[K, R] = Map(records)
        self._sum = sum(hash_of(record) for record in self.records.values())
        # What the sum still has to take in: keys, and their record as the sum has it.
        self._uncounted: dict[K, R | None] = {}

    def put(self, key: K, record: R) -> None:
        self._uncounted.setdefault(key, self.records.get(key))
        self.records = self.records.set(key, record)
        if len(self._uncounted) > MAX_UNCOUNTED_RECORDS:
            self.digest()

    def remove(self, key: K) -> R:
        """Take out the record of `key`, which must be there, and return it."""
        record = self.records[key]
        if self._uncounted.setdefault(key, record) is None:
            del self._uncounted[key]
        self.records = self.records.delete(key)
        return record

    def digest(self) -> int:
        for key, counted in self._uncounted.items():
            if counted is not None:
                self._sum -= hash_of(counted)
            if (record := self.records.get(key)) is not None:
                self._sum += hash_of(record)
        self._uncounted.clear()
        self._sum %= DIGEST_MODULUS
        return self._sum
