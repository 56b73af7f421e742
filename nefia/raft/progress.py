"""What the leader knows of one follower's log (paper 5.3; pipelining: 10.2.1).

probe      the follower's position is a guess: one message at a time, until one matches.
replicate  the position is known: messages follow each other without waiting, within limits.
snapshot   what it needs next is compacted away: nothing but heartbeats until it is installed.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from attrs import define, field

from nefia.raft.entries import SnapshotMeta

MAX_IN_FLIGHT_MESSAGES = 64
MAX_IN_FLIGHT_BYTES = 8 * 1024 * 1024


class Mode(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@define
class Progress:
    """`match_index` never decreases; `next_index` is always above it.

    `acked_round`: the newest round that the follower has answered. `heard_at`: when it last
    answered anything, on the leader's clock; None: never in this term.
    """

    next_index: int
    match_index: int = 0
    mode: Mode = Mode.PROBE
    acked_round: int = 0
    heard_at: float | None = None
    probe_out: bool = False
    fetching: bool = False
    snapshot: SnapshotMeta | None = None
    _in_flight: deque[tuple[int, int, float]] = field(factory=deque)  # last index, bytes, sent at
    _in_flight_bytes: int = 0
    _probe_round: int = 0

    @property
    def may_send(self) -> bool:
        """Whether another message with entries may go out now."""
        if self.fetching:
            return False
        match self.mode:
            case Mode.PROBE:
                return not self.probe_out
            case Mode.REPLICATE:
                return (
                    len(self._in_flight) < MAX_IN_FLIGHT_MESSAGES
                    and self._in_flight_bytes < MAX_IN_FLIGHT_BYTES
                )
            case Mode.SNAPSHOT:
                return False

    def sent(self, last_index: int, size_bytes: int, now: float, round_: int = 0) -> None:
        """A message with entries up to `last_index` went out in `round_`."""
        if self.mode is Mode.PROBE:
            self.probe_out = True
            self._probe_round = round_
            return
        self.next_index = last_index + 1
        self._in_flight.append((last_index, size_bytes, now))
        self._in_flight_bytes += size_bytes

    def heard(self, round_: int, now: float) -> bool:
        """The follower has answered a message of `round_`; a probe sent before it seems lost.

        Returns whether it is the first answer of that round or a later one.
        """
        self.heard_at = now
        if round_ > self._probe_round:
            self.probe_out = False
        is_news = round_ > self.acked_round
        if is_news:
            self.acked_round = round_
        return is_news

    def matched(self, index: int) -> bool:
        """The follower's log equals ours up to `index`. Returns whether that is news."""
        while self._in_flight and self._in_flight[0][0] <= index:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        news = index > self.match_index
        self.match_index = max(self.match_index, index)
        if self.mode is Mode.SNAPSHOT and self.snapshot and index >= self.snapshot.index:
            self._probe_from(index + 1)
        if self.mode is Mode.PROBE and index >= self.next_index - 1:
            self.mode = Mode.REPLICATE
            self.probe_out = False
        self.next_index = max(self.next_index, index + 1)
        return news

    def refused(self, prev_log_index: int, next_index: int) -> bool:
        """The follower has no such entry at `prev_log_index`: look from `next_index` instead.

        Returns False for an answer to a position that is no longer the one in question. What it
        once had it has: to ask for that again at once would only raise a storm of refusals.
        """
        if prev_log_index <= self.match_index:
            return False
        match self.mode:
            case Mode.SNAPSHOT:
                return False
            case Mode.PROBE if prev_log_index != self.next_index - 1:
                return False
            case _:
                self._probe_from(max(self.match_index + 1, min(next_index, prev_log_index)))
                return True

    def lost_messages(self) -> None:
        """What was in flight may not arrive: find out anew what the follower has."""
        if self.mode is Mode.REPLICATE:
            self._probe_from(self.match_index + 1)
        self.probe_out = False

    def unanswered_since(self) -> float | None:
        """When the oldest message in flight was sent; None if there is none."""
        return self._in_flight[0][2] if self._in_flight else None

    def begin_snapshot(self) -> None:
        self._probe_from(self.match_index + 1)
        self.mode = Mode.SNAPSHOT

    def snapshot_failed(self) -> None:
        if self.mode is Mode.SNAPSHOT:
            self._probe_from(self.match_index + 1)

    def _probe_from(self, next_index: int) -> None:
        self.mode = Mode.PROBE
        self.next_index = next_index
        self.probe_out = False
        self.snapshot = None
        self._in_flight.clear()
        self._in_flight_bytes = 0
