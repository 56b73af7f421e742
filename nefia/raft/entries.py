"""What the log holds, and what a node must remember beside it."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from nefia.raft.configuration import Configuration

Payload: TypeAlias = bytes | Configuration | None
"""An encoded command; a configuration; or None for the no-op that opens a leader's term (6.4)."""

ENTRY_OVERHEAD_BYTES = 64
"""What an entry counts besides its command, wherever bytes are bounded."""


@frozen
class Entry:
    """One entry of the log. `index` counts from 1; `term` is that of the leader that made it."""

    index: int
    term: int
    payload: Payload = None

    @property
    def size_bytes(self) -> int:
        payload = self.payload
        return ENTRY_OVERHEAD_BYTES + (len(payload) if type(payload) is bytes else 0)


@frozen
class HardState:
    """What must be durable before any message that rests on it (paper, figure 2).

    `term` never decreases. `vote` is whom this node voted for in `term`; within a term it is set
    once and never changed. `tenure_ms` is the longest that a leader was ever said to have
    (`raft.tenure`), and never decreases.
    """

    term: int = 0
    vote: str | None = None
    tenure_ms: int = 0


@frozen
class SnapshotMeta:
    """The point in the log that a snapshot stands for, and the configuration there (5.1).

    `configuration_index` is the index of the entry that `configuration` came from.
    """

    index: int
    term: int
    configuration: Configuration
    configuration_index: int
