"""Records by number, in blocks: small, quick, in order, and with a snapshot that is a reference.

A snapshot takes the blocks as they are and marks them as shared; a shared block is copied before
it is first changed. So taking one costs a step for each block, and a change never costs more than
one block, however many records there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import attrs
from msgspec import Struct

from nefia.state import digest
from nefia.state.digest import Counted, sum_of

R = TypeVar("R", bound=attrs.AttrsInstance | Struct)

BLOCK_SHIFT = 8
BLOCK_SIZE = 1 << BLOCK_SHIFT
BLOCK_MASK = BLOCK_SIZE - 1

_NOTHING = [None] * BLOCK_SIZE


class Snapshot(Generic[R]):
    """Iterates in the order of the numbers."""

    def __init__(self, blocks: dict[int, list[R | None]]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[R]:
        for key in sorted(self._blocks):
            for record in self._blocks[key]:
                if record is not None:
                    yield record

    def get(self, number: int) -> R | None:
        block = self._blocks.get(number >> BLOCK_SHIFT)
        return None if block is None else block[number & BLOCK_MASK]


class Numbered(Counted[int, R]):
    """The records of one kind by their number, from 0 on; `len` is how many there are."""

    def __init__(self, records: Iterable[tuple[int, R]] = ()) -> None:
        super().__init__()
        self._blocks: dict[int, list[R | None]] = {}
        self._shared: set[int] = set()
        self._count = 0
        for number, record in records:
            self._own_block(number)[number & BLOCK_MASK] = record
            self._count += 1
        self._sum = sum([sum_of(block) for block in self._blocks.values()])

    def __len__(self) -> int:
        return self._count

    def get(self, key: int) -> R | None:
        block = self._blocks.get(key >> BLOCK_SHIFT)
        return None if block is None else block[key & BLOCK_MASK]

    def all_of(self, keys: Iterable[int]) -> Iterable[R | None]:
        blocks = self._blocks
        return [blocks.get(key >> BLOCK_SHIFT, _NOTHING)[key & BLOCK_MASK] for key in keys]

    def __getitem__(self, number: int) -> R:
        """The record of a number that has one."""
        record = self._blocks[number >> BLOCK_SHIFT][number & BLOCK_MASK]
        assert record is not None, number
        return record

    def put(self, number: int, record: R, before: R | None) -> None:
        """`before` is the record that it takes the place of, if there is one."""
        uncounted = self._uncounted
        uncounted.setdefault(number, before)
        self._own_block(number)[number & BLOCK_MASK] = record
        if before is None:
            self._count += 1
        if self.observe is not None:
            self.observe(before, record)
        if len(uncounted) > digest.MAX_UNCOUNTED_RECORDS:
            self.digest()

    def extend(self, first: int, records: Sequence[R]) -> None:
        """`records` are new, and their numbers follow one another from `first` on."""
        uncounted, block = self._uncounted, self._own_block(first)
        for number, record in enumerate(records, first):
            position = number & BLOCK_MASK
            if not position:
                block = self._own_block(number)
            block[position] = record
            uncounted[number] = None
        self._count += len(records)
        if self.observe is not None:
            for record in records:
                self.observe(None, record)
        if len(self._uncounted) > digest.MAX_UNCOUNTED_RECORDS:
            self.digest()

    def remove(self, number: int) -> R:
        """Take out the record of `number`, which must be there, and return it."""
        record = self[number]
        if self._uncounted.setdefault(number, record) is None:
            del self._uncounted[number]
        block = self._own_block(number)
        block[number & BLOCK_MASK] = None
        if block[-1] is None and not any(block):  # mostly the last of a block is the last to go
            del self._blocks[number >> BLOCK_SHIFT]
        self._count -= 1
        if self.observe is not None:
            self.observe(record, None)
        return record

    def snapshot(self) -> Snapshot[R]:
        """The records as they are now, however they change."""
        self._shared = set(self._blocks)
        return Snapshot(self._blocks.copy())

    def _own_block(self, number: int) -> list[R | None]:
        """The block of `number`, in no snapshot."""
        key = number >> BLOCK_SHIFT
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = [None] * BLOCK_SIZE
            self._shared.discard(key)
        elif key in self._shared:
            block = self._blocks[key] = block.copy()
            self._shared.discard(key)
        return block
