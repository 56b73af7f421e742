"""How fast a connection may send: a token bucket, pure."""

from __future__ import annotations

BURST_SECONDS = 2.0
"""So much of the rate may come at once."""


class Pace:
    """`per_second` events on average, `BURST_SECONDS` worth of them at once."""

    def __init__(self, per_second: float, now: float) -> None:
        self._interval = 1 / per_second
        self._earliest = now - BURST_SECONDS
        """When the next event would be due if all came at the rate; it lags behind by the burst."""

    def turn(self, now: float) -> float:
        """From when on the event that has come may be looked at; each call is one event."""
        self._earliest = max(self._earliest, now - BURST_SECONDS) + self._interval
        return max(self._earliest, now)
