"""A sorted set of whole numbers, for the tasks of a shelf: a bit each, in blocks.

Task numbers are dense, since they are given out in order and tasks go after a while; so a member
costs about a bit, and adding, removing and finding the first cost the same in a large set and in a
small one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

BLOCK_SHIFT = 9
BLOCK_MASK = (1 << BLOCK_SHIFT) - 1
BITS = tuple([1 << position for position in range(BLOCK_MASK + 1)])
"""A number is the bit `BITS[number & BLOCK_MASK]` of the block `number >> BLOCK_SHIFT`."""


class NumberSet:
    """Numbers from 0 on. Iterates in their order; `len` is how many there are."""

    __slots__ = ("_blocks", "_count", "_order")

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self._order: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return self.above(-1)

    def add(self, block: int, bits: int) -> None:
        """None of the numbers is in the set yet."""
        former = self._blocks.get(block)
        if former is None:
            self._order.insert(bisect_left(self._order, block), block)
            former = 0
        self._blocks[block] = former | bits
        self._count += bits.bit_count()

    def remove(self, block: int, bits: int) -> None:
        """All of the numbers are in the set."""
        rest = self._blocks[block] ^ bits
        if rest:
            self._blocks[block] = rest
        else:
            del self._blocks[block]
            del self._order[bisect_left(self._order, block)]
        self._count -= bits.bit_count()

    def first(self) -> int:
        """The smallest number of a set that is not empty."""
        block = self._order[0]
        bits = self._blocks[block]
        return (block << BLOCK_SHIFT) + (bits & -bits).bit_length() - 1

    def above(self, number: int) -> Iterator[int]:
        """The numbers above `number`, in order. The set must not change meanwhile."""
        block, position = (number + 1) >> BLOCK_SHIFT, (number + 1) & BLOCK_MASK
        start = bisect_left(self._order, block)
        if start < len(self._order) and self._order[start] == block:
            yield from _numbers(block, self._blocks[block] >> position << position)
            start += 1
        for following in self._order[start:]:
            yield from _numbers(following, self._blocks[following])


def _numbers(block: int, bits: int) -> Iterator[int]:
    base = (block << BLOCK_SHIFT) - 1
    while bits:
        lowest = bits & -bits
        yield base + lowest.bit_length()
        bits ^= lowest
