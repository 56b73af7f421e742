"""Jobs that end, hang, die and cannot start, on processes of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.simulation.farm import Cut, outcomes

LIMIT_SECONDS = 3.0
NEVER_SECONDS = 3600.0


def half(number: int) -> int:
    """2 hangs, and 3 takes its process with it."""
    if number == 2:
        time.sleep(NEVER_SECONDS)
    if number == 3:
        os._exit(7)
    return number // 2


def test_every_job_has_its_outcome() -> None:
    got = dict(outcomes(half, range(10, 30), processes=2, limit_seconds=NEVER_SECONDS))
    assert got == {number: number // 2 for number in range(10, 30)}


def test_what_hangs_or_dies_is_cut_and_the_rest_goes_on() -> None:
    got = dict(outcomes(half, range(8), processes=2, limit_seconds=LIMIT_SECONDS))
    assert got == {
        **{number: number // 2 for number in (0, 1, 4, 5, 6, 7)},
        2: Cut("it took too long and was cut"),
        3: Cut("its process ended with exit code 7"),
    }


def test_jobs_are_taken_one_by_one() -> None:
    """Twenty thousand seeds are not held in memory, neither before nor after."""
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 9):
            yield 10 * taken

    for ended, _ in enumerate(
        outcomes(half, jobs(), processes=2, limit_seconds=NEVER_SECONDS), start=1
    ):
        assert taken <= ended + 2


def test_a_process_that_does_not_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="does not start"):
        list(outcomes(partial(second, _Unpicklable()), [1], processes=1, limit_seconds=1.0))


def second(_first: object, number: int) -> int:
    return number


class _Unpicklable:
    """Can be sent, but not read."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os._exit, (9,))
