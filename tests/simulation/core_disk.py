"""One node's disk in the core simulator: what survives when its process ends."""

from __future__ import annotations

from random import Random

from attrs import define, evolve, field, frozen

from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.log import Log

SNAPSHOTS_KEPT = 2


@frozen
class StateSnapshot:
    """A snapshot of the state machine. `digest` stands for the state itself."""

    meta: SnapshotMeta
    digest: int


@define
class SimulatedDisk:
    """`entries` follow `base`. `snapshots`: newest last; `staged`: received, not yet installed."""

    hard_state: HardState = field(factory=HardState)
    base: SnapshotMeta | None = None
    entries: list[Entry] = field(factory=list)
    snapshots: list[StateSnapshot] = field(factory=list)
    staged: dict[tuple[int, int], StateSnapshot] = field(factory=dict)
    writing: Write | None = None
    hung_until: float = 0.0
    slow_until: float = 0.0
    fails_next: bool = False

    @property
    def base_index(self) -> int:
        return self.base.index if self.base else 0

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    def term_at(self, index: int) -> int | None:
        if index == self.base_index:
            return self.base.term if self.base else 0
        if not self.base_index < index <= self.last_index:
            return None
        return self.entries[index - self.base_index - 1].term

    def apply(self, write: Write) -> None:
        """The whole of `write` becomes durable at once."""
        if write.hard_state:
            self.hard_state = write.hard_state
        if write.snapshot:
            self.base = write.snapshot
            self.entries.clear()
        if write.entries:
            first = write.entries[0].index
            assert self.base_index < first <= self.last_index + 1, "a write leaves a gap"
            del self.entries[first - self.base_index - 1 :]
            self.entries += write.entries
        if write.compact:
            assert self.term_at(write.compact.index) == write.compact.term
            del self.entries[: write.compact.index - self.base_index]
            self.base = write.compact

    def read(self, first: int, last: int, limit: int) -> tuple[Entry, ...]:
        if not self.base_index < first <= self.last_index:
            return ()
        start = first - self.base_index - 1
        return tuple(self.entries[start : start + min(limit, last - first + 1)])

    def keep_snapshot(self, snapshot: StateSnapshot) -> None:
        self.snapshots = sorted([*self.snapshots, snapshot], key=lambda s: s.meta.index)
        del self.snapshots[:-SNAPSHOTS_KEPT]

    def load(self, random: Random) -> tuple[Log, StateSnapshot | None]:
        """The log as a store would give it, and the state to begin with.

        A state snapshot may be newer than the log: it was taken of entries that were committed but
        not yet durable here. The log then begins anew behind it.
        """
        newest = self.snapshots[-1] if self.snapshots else None
        if newest and newest.meta.index >= self.base_index:
            meta = newest.meta
            if self.term_at(meta.index) != meta.term:
                # The term may not be durable yet either; no vote of it was given then.
                newer = meta.term > self.hard_state.term
                hard_state = evolve(self.hard_state, term=meta.term, vote=None) if newer else None
                self.apply(Write(sequence=0, hard_state=hard_state, snapshot=meta))
        tail = self.entries[-random.randint(1, 50) :]
        starts = [
            (entry.index, entry.term)
            for entry in self.entries
            if entry.index == self.base_index + 1 or entry.term != self.term_at(entry.index - 1)
        ]
        log = Log(
            base=self.base,
            last_index=self.last_index,
            term_starts=starts,
            configurations=[
                (entry.index, entry.payload)
                for entry in self.entries
                if entry.payload is not None and not isinstance(entry.payload, bytes)
            ],
            tail=tail,
        )
        return log, newest
