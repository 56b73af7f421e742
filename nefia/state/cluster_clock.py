"""Cluster time outside the state: what a leader stamps on changes (SPEC 8).

"Cluster time: carried in entries and heartbeats, advanced by the leader's monotonic clock and
continued by its successor, so that neither a wall-clock jump nor a leader change shortens or
prolongs a TTL or lease by more than the failover itself." And: "only time stamped in entries
changes state (heartbeat time only lets a successor continue the clock)".
"""

from __future__ import annotations


class ClusterClock:
    """Every node has one: it counts on from the newest leader's reading, at this node's own rate.

    `now` is seconds on the node's clock and never goes back. Readings are whole milliseconds.
    While this node leads, readings never go back. A follower's may, by as much as its clock has
    gained on the leader's since the last heartbeat: were it to keep its gains, a node with a fast
    clock would take the cluster's time ahead with it when it is elected.
    """

    def __init__(self, now: float, time_ms: int) -> None:
        """`time_ms` is the machine's, as restored: the time for which nobody ran is not counted."""
        self._anchor = now
        self._anchor_ms = time_ms
        self._term = 0

    def read(self, now: float) -> int:
        assert now >= self._anchor, (now, self._anchor)
        return self._anchor_ms + int((now - self._anchor) * 1000)

    def heard(self, now: float, term: int, time_ms: int) -> None:
        """A heartbeat of the leader of `term` said `time_ms`.

        A late one counts for nothing. A later leader may be behind, and counts: it was restarted,
        knows from entries only how late it was, and what it stamps is measured by its clock.
        """
        if (term, time_ms) >= (self._term, self._anchor_ms):
            self._anchor = now
            self._anchor_ms = time_ms
            self._term = term

    def lead(self, now: float, time_ms: int) -> None:
        """This node leads from `now` on, and `time_ms` is the time of the newest entry it knows.

        What was stamped before is not undercut: the entry may be newer than the last heartbeat.
        """
        self._anchor_ms = max(self.read(now), time_ms)
        self._anchor = now
