"""Pages of lists: as many records as were asked for, or fewer where an answer would get too big."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from nefia.errors import InvalidArgument
from nefia.state.limits import MAX_ANSWER_BYTES, MAX_PAGE_RECORDS


class _Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


R = TypeVar("R", bound=_Sized)


def page_of(records: Iterable[R], limit: int) -> tuple[tuple[R, ...], bool]:
    """The first records, at most `limit` and at least one if there is any; whether more follow.

    Raises InvalidArgument for a limit that is not from 1 to MAX_PAGE_RECORDS.
    """
    if not 1 <= limit <= MAX_PAGE_RECORDS:
        raise InvalidArgument(f'"limit" must be from 1 to {MAX_PAGE_RECORDS}, not {limit}.')
    page: list[R] = []
    page_bytes = 0
    for record in records:
        page_bytes += record.size_bytes
        if len(page) == limit or (page and page_bytes > MAX_ANSWER_BYTES):
            return tuple(page), True
        page.append(record)
    return tuple(page), False
