"""How much comes and goes on a queue, by the minute: for people who watch it.

Derived from what this node has applied since it started or took over a snapshot, and so in no
snapshot and no digest.
"""

from __future__ import annotations

from nefia.state.records import QueueRates

MINUTE_MS = 60_000

PUSHED, CLAIMED, COMPLETED, FAILED = range(4)
"""What is counted; FAILED: attempts that failed or whose lease ran out."""


class Flow:
    """Counts of this minute of cluster time and of the one before."""

    __slots__ = ("_current", "_minute", "_previous")

    def __init__(self) -> None:
        self._minute = 0
        self._current = [0, 0, 0, 0]
        self._previous = [0, 0, 0, 0]

    def note(self, what: int, now_ms: int, count: int) -> None:
        """`count` times."""
        if now_ms // MINUTE_MS != self._minute:
            self._turn(now_ms // MINUTE_MS)
        self._current[what] += count

    def rates(self, now_ms: int) -> QueueRates:
        """What of the last minute lies in the minute before counts as if that had been even."""
        if now_ms // MINUTE_MS != self._minute:
            self._turn(now_ms // MINUTE_MS)
        rest = 1 - now_ms % MINUTE_MS / MINUTE_MS
        counts = zip(self._current, self._previous, strict=True)
        return QueueRates(*[current + previous * rest for current, previous in counts])

    def _turn(self, minute: int) -> None:
        nothing = [0, 0, 0, 0]
        self._previous = self._current if minute == self._minute + 1 else nothing
        self._current = [0, 0, 0, 0]
        self._minute = minute
