"""Time as nodes see it. Everything in `net`, `storage`, `node` and `services` asks a `NodeClock`.

The simulator gives each node a clock with its own rate and pauses, which trio's MockClock cannot;
a test over the source keeps `trio.current_time`, `trio.sleep` and trio's timeouts out of those
packages, so that nothing escapes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import trio
from trio.abc import Clock


class NodeClock(Protocol):
    """Seconds on a clock that never goes back and counts suspended time too."""

    def now(self) -> float: ...

    async def sleep_until(self, when: float) -> None:
        """Return at `when` or soon after. A checkpoint even if `when` is past."""

    def deadline_scope(self, when: float) -> trio.CancelScope:
        """A cancel scope that is cancelled at `when` on this clock."""

    def move_deadline(self, scope: trio.CancelScope, when: float) -> None:
        """Set another deadline for a scope that `deadline_scope` made."""


async def sleep(clock: NodeClock, seconds: float) -> None:
    await clock.sleep_until(clock.now() + seconds)


class BootClock(Clock):
    """trio's clock on CLOCK_BOOTTIME: unlike CLOCK_MONOTONIC it runs on during suspend (SPEC 5)."""

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


class TrioNodeClock:
    """The `NodeClock` of a running daemon: trio's own time, which `BootClock` provides.

    For one run of trio.
    """

    @cached_property
    def now(self) -> Callable[[], float]:
        """Asked for each change: the clock itself, without trio's three calls to it."""
        return trio.lowlevel.current_clock().current_time

    async def sleep_until(self, when: float) -> None:
        await trio.sleep_until(when)

    def deadline_scope(self, when: float) -> trio.CancelScope:
        return trio.CancelScope(deadline=when)

    def move_deadline(self, scope: trio.CancelScope, when: float) -> None:
        scope.deadline = when
