"""Running trio in simulated time, the same way each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar
from unittest.mock import patch

import trio
from trio.testing import MockClock

DEFAULT_SEED = 1

T = TypeVar("T")


def run_simulated(
    main: Callable[[], Awaitable[T]],
    *,
    seed: int = DEFAULT_SEED,
    clock: object = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """As `trio.run`, but time jumps to the next deadline when all tasks wait.

    trio shuffles the tasks that are ready; here it does so by `seed` (DESIGN: "that lives in one
    fixture with its own test"). `clock` is what pytest-trio passes.
    """
    assert clock is None
    with (
        patch("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True),
        patch("trio._core._run._r", Random(seed)),
    ):
        return trio.run(main, clock=MockClock(autojump_threshold=0), instruments=instruments)
