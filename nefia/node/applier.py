"""Committed entries into the state machine, and the answers to those who wait for them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import trio
from attrs import frozen

from nefia.errors import DataDamaged, NotLeader, OutcomeUnknown
from nefia.node.promise import Promise
from nefia.raft.entries import Entry
from nefia.state.commands import Change
from nefia.state.machine import Machine
from nefia.state.records import Outcome
from nefia.wire import CHANGES, Malformed


@frozen
class _Proposed:
    """A change of ours in the log: the entry at its index is ours if it has this term."""

    term: int
    change: Change
    promise: Promise[Outcome]


class Applier:
    """Owns the machine. `applied` is an event that the next batch of entries sets."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.applied = trio.Event()
        self._proposed: dict[int, _Proposed] = {}
        self._reads: list[tuple[int, int, Promise[Machine]]] = []  # heap: index, order, promise
        self._read_order = 0

    @property
    def waiting(self) -> int:
        """How many changes are proposed and not answered yet."""
        return len(self._proposed)

    def expect(self, index: int, term: int, change: Change, promise: Promise[Outcome]) -> None:
        """`promise` gets the outcome of the entry at `index`, if it has this term."""
        self._proposed[index] = _Proposed(term, change, promise)

    def give_up(self, why: str) -> None:
        """This node stops: tell those who wait for a change that they will not learn of it here."""
        for proposed in self._proposed.values():
            told = f"{why}, before the change was confirmed"
            proposed.promise.fail(may_still_happen(told, proposed.change.request_id))
        self._proposed.clear()

    def answer_at(self, index: int, promise: Promise[Machine]) -> None:
        """`promise` gets the machine once the entry at `index` is applied."""
        self._read_order += 1
        heapq.heappush(self._reads, (index, self._read_order, promise))
        self._answer_reads()

    def apply(self, entries: Sequence[Entry]) -> None:
        """Raises DataDamaged for an entry that no version of nefia has written."""
        for entry in entries:
            proposed = self._proposed.pop(entry.index, None)
            ours = proposed is not None and proposed.term == entry.term
            if proposed is not None and not ours:
                proposed.promise.fail(overtaken())
            if not isinstance(entry.payload, bytes):
                self.machine.skip(entry.index)
                continue
            change = proposed.change if proposed and ours else _decode(entry.index, entry.payload)
            outcome = self.machine.apply(entry.index, change)
            if proposed and ours:
                proposed.promise.keep(outcome)
        self._answer_reads()
        self.applied.set()
        self.applied = trio.Event()

    def _answer_reads(self) -> None:
        while self._reads and self._reads[0][0] <= self.machine.applied_index:
            heapq.heappop(self._reads)[2].keep(self.machine)


def _decode(index: int, payload: bytes) -> Change:
    try:
        return CHANGES.decode(payload)
    except Malformed as error:
        raise DataDamaged(
            f"entry {index} of the log holds no command that this version knows: {error}",
            hint="run the newest version of nefia that any node of the cluster runs",
            index=index,
        ) from error


def may_still_happen(what: str, request_id: str) -> OutcomeUnknown:
    """The error for a change that is in the log, and that nobody here will learn the end of."""
    return OutcomeUnknown(
        f"{what}; it may still happen",
        hint="repeat it with the same request id: it cannot happen twice",
        request_id=request_id or None,
    )


def overtaken() -> NotLeader:
    """The error for an entry of ours at whose index another one is committed."""
    return NotLeader(
        "another node took over before the change was committed, and dropped it",
        hint="repeat it on the new leader",
        leader_id=None,
        leader_addr=None,
    )
