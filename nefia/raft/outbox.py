"""What the core asks for until its driver takes it."""

from __future__ import annotations

from attrs import define, field

from nefia.raft.effects import Effects, Fetch, Notice, ReadReady, SendSnapshot, Write
from nefia.raft.entries import Entry, SnapshotMeta
from nefia.raft.messages import Message


@define
class Outbox:
    """Owned by `core.Raft`; `Leader` adds to it too. See `Effects` for the fields."""

    send: list[Message] = field(factory=list)
    restore: SnapshotMeta | None = None
    committed: list[Entry] = field(factory=list)
    reads: list[ReadReady] = field(factory=list)
    fetch: list[Fetch] = field(factory=list)
    snapshots: list[SendSnapshot] = field(factory=list)
    notices: list[Notice] = field(factory=list)

    def effects(self, write: Write | None) -> Effects:
        return Effects(
            send=tuple(self.send),
            write=write,
            restore=self.restore,
            committed=tuple(self.committed),
            reads=tuple(self.reads),
            fetch=tuple(self.fetch),
            snapshots=tuple(self.snapshots),
            notices=tuple(self.notices),
        )
