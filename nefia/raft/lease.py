"""When the leader's right to act ends (6.4.1), counted in rounds.

A round is begun at a moment on the leader's own clock; whoever answers a message that carries it
took the sender for leader after that moment. So a majority's newest common round proves that no
other leader was elected by them within `heartbeat_timeout` of the round's beginning (4.2.3), save
through the crash fast path and transfers (SPEC 5), which is why services wait and reads do not
use the lease.
"""

from __future__ import annotations

from collections import deque


class Rounds:
    """The rounds of one term of one leader; owned by `Leadership`.

    `latest` grows by one with each round begun. Only rounds that may still extend the lease are
    remembered: heartbeats are regular and reads share rounds, so that they are few.
    """

    def __init__(self) -> None:
        self.latest = 0
        self._begun: deque[tuple[int, float]] = deque()

    def begin(self, now: float) -> int:
        self.latest += 1
        self._begun.append((self.latest, now))
        return self.latest

    def begun_at(self, round_: int) -> float | None:
        """When the newest remembered round up to `round_` began; forgets the ones before it."""
        while len(self._begun) > 1 and self._begun[1][0] <= round_:
            self._begun.popleft()
        if self._begun and self._begun[0][0] <= round_:
            return self._begun[0][1]
        return None
