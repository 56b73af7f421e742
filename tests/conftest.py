"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
import trio

SCHEDULING_SEED = 0

# A shell's background jobs ignore SIGINT, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def deterministic_scheduling(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Within the test, trio runs ready tasks in the same order each time.

    It shuffles them otherwise, on purpose. To be repeatable takes both: the switch that sorts them
    first, and the seed of what is left to chance. The function given seeds anew.
    """

    def seed() -> None:
        trio._core._run._r.seed(SCHEDULING_SEED)

    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    seed()
    return seed
