"""Committed entries into the state machine, and the answers to those who wait for them."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence

import trio
from attrs import frozen

from nefia.errors import DataDamaged, NotLeader
from nefia.node.promise import Promise
from nefia.node.proposals import Proposal, may_still_happen
from nefia.raft.entries import Entry
from nefia.state.commands import Change
from nefia.state.features import require_known
from nefia.state.machine import Machine
from nefia.wire import Malformed, decode_batch


@frozen
class _Proposed:
    """A batch of ours in the log: the entry at its index is ours if it has this term."""

    term: int
    batch: Sequence[tuple[Change, Proposal]]


class Applier:
    """Owns the machine. `applied` is an event that the next batch of entries sets.

    `features` is the newest feature level that this node understands.
    """

    def __init__(self, machine: Machine, features: int) -> None:
        self.machine = machine
        self.took: Callable[[float], None] = lambda seconds: None
        """Told how long it took to apply what was committed together."""
        self._features = features
        self.applied = trio.Event()
        self._proposed: dict[int, _Proposed] = {}
        self._reads: list[tuple[int, int, Promise[Machine]]] = []  # heap: index, order, promise
        self._read_order = 0

    def expect(self, index: int, term: int, batch: Sequence[tuple[Change, Proposal]]) -> None:
        """The proposals get the outcomes of the entry at `index`, if it has this term."""
        self._proposed[index] = _Proposed(term, batch)

    def give_up(self, why: str) -> None:
        """This node stops: tell those who wait for a change that they will not learn of it here."""
        told = f"{why}, before the change was confirmed"
        for proposed in self._proposed.values():
            for _, proposal in proposed.batch:
                proposal.end(may_still_happen(told, proposal.request_id))
        self._proposed.clear()

    def restore(self, machine: Machine) -> None:
        """Go on with the state of a snapshot, which holds what was still to be applied here."""
        self.give_up("another node leads and has sent a snapshot")
        self.machine = machine
        self._answer_reads()
        self.applied.set()
        self.applied = trio.Event()

    def answer_at(self, index: int, promise: Promise[Machine]) -> None:
        """`promise` gets the machine once the entry at `index` is applied."""
        self._read_order += 1
        heapq.heappush(self._reads, (index, self._read_order, promise))
        self._answer_reads()

    def apply(self, entries: Sequence[Entry]) -> None:
        """Raises NewerFormat where a level is in force that this node does not know, and
        DataDamaged for an entry that no version of nefia has written."""
        began = time.perf_counter()
        for entry in entries:
            proposed = self._proposed.pop(entry.index, None)
            if proposed is not None and proposed.term == entry.term:
                self._apply_own(entry.index, proposed.batch)
                continue
            if proposed is not None:
                for _, proposal in proposed.batch:
                    proposal.end(overtaken())
            if isinstance(entry.payload, bytes):
                self.machine.apply(entry.index, _decode(entry.index, entry.payload))
            elif entry.payload is None:
                self.machine.skip(entry.index)
            else:
                require_known(entry.payload.features, self._features)
                self.machine.configure(entry.index, entry.term, entry.payload)
        self.took(time.perf_counter() - began)
        self._answer_reads()
        self.applied.set()
        self.applied = trio.Event()

    def _apply_own(self, index: int, batch: Sequence[tuple[Change, Proposal]]) -> None:
        """What was encoded here need not be decoded again."""
        outcomes = self.machine.apply(index, [change for change, _ in batch])
        for (_, proposal), outcome in zip(batch, outcomes, strict=True):
            proposal.end(outcome)

    def _answer_reads(self) -> None:
        while self._reads and self._reads[0][0] <= self.machine.applied_index:
            heapq.heappop(self._reads)[2].keep(self.machine)


def _decode(index: int, payload: bytes) -> tuple[Change, ...]:
    try:
        return decode_batch(payload).changes
    except Malformed as error:
        raise DataDamaged(
            f"entry {index} of the log holds no command that this version knows: {error}",
            hint="run the newest version of nefia that any node of the cluster runs",
            index=index,
        ) from error


def overtaken() -> NotLeader:
    """The error for an entry of ours at whose index another one is committed."""
    return NotLeader(
        "another node took over before the change was committed, and dropped it",
        hint="repeat it on the new leader",
        leader_id=None,
        leader_addr=None,
    )
