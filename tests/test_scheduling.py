"""The fixture that makes trio's scheduling repeatable does so, and trio's own is not."""

from __future__ import annotations

from collections.abc import Callable

import trio

TASKS = 16
ROUNDS = 16


def schedule() -> list[int]:
    """The order in which many tasks that are always ready have run."""
    order: list[int] = []

    async def run(number: int) -> None:
        for _ in range(ROUNDS):
            order.append(number)
            await trio.lowlevel.checkpoint()

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(TASKS):
                nursery.start_soon(run, number)

    trio.run(all_of_them)
    return order


def test_it_is_the_same_each_time(deterministic_scheduling: Callable[[], None]) -> None:
    first = schedule()
    deterministic_scheduling()
    assert schedule() == first


def test_without_the_fixture_it_is_not() -> None:
    # Of 16 rounds or more, each is run forwards or backwards: two agree by chance in 2**-16.
    assert schedule() != schedule()
