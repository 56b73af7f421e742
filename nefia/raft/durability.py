"""What is on disk, what is on its way there, and which messages have to wait for it.

The paper has a server answer RPCs only after updating stable storage (figure 2). Here that rule
lives in one place: persistent state has a version that counts its changes, each message rests on
the version at which what it says last changed, and leaves only when that version is durable.
"""

from __future__ import annotations

from nefia.raft.effects import Write
from nefia.raft.entries import HardState, SnapshotMeta
from nefia.raft.log import Log
from nefia.raft.messages import Message

MAX_WITHHELD_MESSAGES = 4096
"""While a disk hangs; the oldest are dropped then, as the network may drop any message."""


class Durability:
    """Owned by `core.Raft`. One write is out at a time; what changes meanwhile forms the next.

    `durable_index`: the log up to here is on disk as it is in memory.
    """

    def __init__(self, durable_index: int) -> None:
        self.durable_index = durable_index
        self.out_since: float | None = None
        self._version = 0
        self._durable_version = 0
        self._hard_state_version = 0
        self._log_version = 0
        self._withheld: list[tuple[int, Message]] = []
        self._sequence = 0
        self._out_version = 0
        self._out_last_index = 0
        # What the next write has to contain.
        self._hard_state_changed = False
        self._log_changed_from: int | None = None
        self._snapshot: SnapshotMeta | None = None
        self._compact: SnapshotMeta | None = None

    @property
    def hard_state_is_durable(self) -> bool:
        return self._hard_state_version <= self._durable_version

    def hard_state_changed(self) -> None:
        self._version += 1
        self._hard_state_version = self._version
        self._hard_state_changed = True

    def log_changed(self, first: int) -> None:
        """The log was replaced from entry `first` on, or extended by it."""
        self._version += 1
        self._log_version = self._version
        self.durable_index = min(self.durable_index, first - 1)
        self._out_last_index = min(self._out_last_index, first - 1)
        unwritten = self._log_changed_from
        self._log_changed_from = first if unwritten is None else min(unwritten, first)

    def log_replaced(self, snapshot: SnapshotMeta) -> None:
        """The log was thrown away in favour of a snapshot."""
        self._version += 1
        self._log_version = self._version
        self.durable_index = self._out_last_index = 0
        self._log_changed_from = None
        self._compact = None
        self._snapshot = snapshot

    def compacted(self, base: SnapshotMeta) -> None:
        self._version += 1
        self._compact = base

    def send(self, message: Message, rests_on_entry: int = 0) -> list[Message]:
        """What may leave now: `message`, or nothing if it has to wait.

        Every message rests on the term that it is sent in; one that says that an entry is stored
        rests on that entry too.
        """
        needed = self._hard_state_version
        if rests_on_entry > self.durable_index:
            needed = max(needed, self._log_version)
        if needed <= self._durable_version:
            return [message]
        self._withheld.append((needed, message))
        del self._withheld[:-MAX_WITHHELD_MESSAGES]
        return []

    def next_write(self, now: float, hard_state: HardState, log: Log) -> Write | None:
        """The write that is due, or None: nothing changed, or one is out already."""
        if self.out_since is not None or self._version == self._durable_version:
            return None
        first = self._log_changed_from
        self._sequence += 1
        write = Write(
            sequence=self._sequence,
            hard_state=hard_state if self._hard_state_changed else None,
            entries=() if first is None else log.from_index(first),
            snapshot=self._snapshot,
            compact=self._compact,
        )
        self.out_since = now
        self._out_version = self._version
        self._out_last_index = log.last_index
        self._hard_state_changed = False
        self._log_changed_from = None
        self._snapshot = None
        self._compact = None
        return write

    def persisted(self, sequence: int, term: int) -> list[Message]:
        """The write is durable: returns what waited for it, less what an old term said."""
        assert self.out_since is not None
        assert sequence == self._sequence
        self.out_since = None
        self._durable_version = self._out_version
        self.durable_index = max(self.durable_index, self._out_last_index)
        due = [message for needed, message in self._withheld if needed <= self._durable_version]
        self._withheld = [item for item in self._withheld if item[0] > self._durable_version]
        return [message for message in due if message.term == term]
