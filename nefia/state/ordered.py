"""A sorted list with types: `sortedcontainers.SortedList`, which comes without them.

Adding, removing and searching are O(log n) in effect (lists of about a thousand items).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    T = TypeVar("T")

    class SortedList(Generic[T]):
        """What of `sortedcontainers.SortedList` is used here."""

        def __init__(self, items: Iterable[T] = ()) -> None: ...
        def __len__(self) -> int: ...
        def __iter__(self) -> Iterator[T]: ...
        def __getitem__(self, position: int) -> T: ...
        def add(self, item: T) -> None: ...
        def remove(self, item: T) -> None: ...
        def irange(self, minimum: T, *, inclusive: tuple[bool, bool]) -> Iterator[T]: ...

else:
    from sortedcontainers import SortedList

__all__ = ["SortedList"]
