"""Is a peer's process gone? Pure: the rule behind the crash fast path (SPEC 5).

A process is lost when every connection to and from it has ended without its goodbye, and either a
dial of about that moment was refused or another incarnation of it has been reached. One lane that
is cut, or a network that is silent, loses nobody. It is no proof of death either: nothing but the
wish for a pre-vote may rest on it.
"""

from __future__ import annotations

import math

REFUSAL_FRESH_SECONDS = 0.1
"""How long before the last connection's end a refused dial may have been.

A dying process's sockets close one after the other, and the first of them already has us dial.
"""


class Presence:
    """One peer as seen from here. Methods return True when they find it lost, once a loss."""

    def __init__(self) -> None:
        self._incarnation = ""
        self._connections: set[object] = set()
        """Those open to and from `_incarnation`."""
        self._refused_at = -math.inf
        self.said_goodbye = False
        self._settled = True
        """Nothing to lose: it said goodbye, is already reported as lost, or was never there."""

    @property
    def connected(self) -> bool:
        return bool(self._connections)

    def opened(self, connection: object, incarnation: str) -> bool:
        """A handshake with the peer has ended well."""
        lost = False
        if incarnation != self._incarnation:
            lost = not self._settled
            # The old process's connections may not have ended for us yet, but it has.
            self._connections.clear()
            self._incarnation = incarnation
            self.said_goodbye = False
        self._connections.add(connection)
        self._settled = self.said_goodbye
        return lost

    def ended(self, connection: object, now: float) -> bool:
        """Connections of an earlier incarnation, or none of ours, are ignored."""
        if connection not in self._connections:
            return False
        self._connections.discard(connection)
        return self._lost(now)

    def refused(self, now: float) -> bool:
        """The peer's host answered a dial with: nothing listens here."""
        self._refused_at = now
        return self._lost(now)

    def goodbye(self, connection: object) -> None:
        if connection in self._connections:
            self.said_goodbye = True
            self._settled = True

    def _lost(self, now: float) -> bool:
        fresh = now - self._refused_at <= REFUSAL_FRESH_SECONDS
        if self._settled or self._connections or not fresh:
            return False
        self._settled = True
        return True
