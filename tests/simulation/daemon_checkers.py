"""What must hold in every history of daemons, looked at after each pass of each node's core.

The ledger is what the cluster as a whole has applied: for each index the entry, and the digest of
the state after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define

from nefia.raft.configuration import Configuration
from nefia.raft.entries import Entry
from nefia.state.machine import Machine
from tests.node.cluster import Process, overlapping
from tests.node.service_stubs import Lives
from tests.simulation.checkers import require
from tests.simulation.daemon_journal import Journal

if TYPE_CHECKING:
    from tests.node.cluster import Leadership

LEASE_MARGIN = 1.03
"""A lease on a clock of another rate."""


@define
class _Seen:
    """What one process showed at its last pass; nothing of it may go back."""

    term: int = 0
    commit_index: int = 0
    configuration: Configuration | None = None
    leads: int = 0


class Checkers:
    def __init__(self, journal: Journal, lease_seconds: float) -> None:
        self.entries: dict[int, Entry] = {}
        self.digests: dict[int, str] = {}
        self.leaders: dict[int, str] = {}
        self.configurations: dict[tuple[int, int], Configuration] = {}
        self.starts: list[float] = []
        self._journal = journal
        self._lease_seconds = lease_seconds

    @property
    def committed_index(self) -> int:
        return max(self.entries, default=0)

    def watch(self, process: Process, now: float) -> None:
        """Look at `process` after each of its passes and each entry that it applies."""
        self.starts.append(now)
        replica, seen = process.node._replica, _Seen()
        run_pass, apply, restore = replica._pass, replica.applier.apply, replica.applier.restore

        def watched_pass(*args: object) -> None:
            run_pass(*args)  # type: ignore[arg-type]
            self._after_pass(process, seen)

        def watched_apply(entries: Sequence[Entry]) -> None:
            for entry in entries:
                apply((entry,))
                self._applied(process, entry)

        def watched_restore(machine: Machine) -> None:
            restore(machine)
            self._begun_with(process, "snapshots installed")

        if process.machine.applied_index:
            self._begun_with(process, "starts with a snapshot")
        setattr(replica.applier, "restore", watched_restore)  # noqa: B010
        setattr(replica, "_pass", watched_pass)  # noqa: B010
        setattr(replica.applier, "apply", watched_apply)  # noqa: B010

    def _after_pass(self, process: Process, seen: _Seen) -> None:
        raft = process.raft
        self._journal.count("core passes")
        require(raft.term >= seen.term, f"the term of {process.name} went back")
        require(raft.commit_index >= seen.commit_index, f"commit of {process.name} went back")
        seen.term, seen.commit_index = raft.term, raft.commit_index
        if raft.log.configuration is not seen.configuration:
            seen.configuration = raft.log.configuration
            index = raft.log.configuration_index
            term = raft.log.term_at(index)
            if index and term is not None:
                self.configurations[index, term] = seen.configuration
        if raft.leader is not None and seen.leads != raft.term:
            seen.leads = raft.term
            self._elected(process)

    def _elected(self, process: Process) -> None:
        raft = process.raft
        self._journal.count("elections won")
        self._journal.record(process.name, f"leads term {raft.term}")
        other = self.leaders.setdefault(raft.term, process.name)
        require(other == process.name, f"{other} and {process.name} both lead term {raft.term}")

    def _applied(self, process: Process, entry: Entry) -> None:
        """State machine safety: the same entries everywhere, and the same state after each."""
        known = self.entries.setdefault(entry.index, entry)
        require(known == entry, f"{process.name} applies {entry} where others applied {known}")
        digest = process.machine.digest()
        same = self.digests.setdefault(entry.index, digest) == digest
        require(same, f"{process.name} has another state at {entry.index}")
        self._journal.record(process.name, f"applied {entry.index}.{entry.term} {digest[:8]}")

    def _begun_with(self, process: Process, how: str) -> None:
        """The state of a snapshot is the one that whoever applied its entries had."""
        index, digest = process.machine.applied_index, process.machine.digest()
        require(index in self.digests, f"{process.name} has a snapshot of {index}, which none had")
        require(digest == self.digests[index], f"{process.name} has another state at {index}")
        self._journal.count(how)
        self._journal.record(process.name, f"{how}: {index} {digest[:8]}")

    # What may be undecided.

    def undecided_configurations(self) -> list[Configuration]:
        """The newest that is decided, and those that were ever in a log and may still be."""
        top = self.committed_index
        decided = [k for k in self.configurations if k[0] in self.entries and self._is_decided(k)]
        newest = [self.configurations[max(decided)]] if decided else []
        return newest + [c for (index, _), c in self.configurations.items() if index > top]

    def _is_decided(self, key: tuple[int, int]) -> bool:
        return self.entries[key[0]].term == key[1]

    # The end.

    def lives_never_overlap(self, lives: Lives) -> None:
        """Services ran on one node at a time, whatever happened to daemons, disks and network."""
        self._journal.count("services started", by=len(lives.lives))
        for one, other in lives.overlaps():
            require(False, f"{one} and {other} ran at once")

    def leases_never_overlap(self, leaderships: Sequence[Leadership]) -> None:
        """Voters that restart forget whom they heard; nothing else may shorten a lease.

        A new leader's services wait until such leases are over (SPEC 9); its scope does not.
        """
        forgetful = self._lease_seconds * LEASE_MARGIN
        for one, other in overlapping(leaderships):
            begin = min(
                max(mine[0], theirs[0])
                for mine in one.periods
                for theirs in other.periods
                if max(mine[0], theirs[0]) < min(mine[1], theirs[1])
            )
            excused = any(begin - forgetful <= start <= begin for start in self.starts)
            self._journal.count("leases overlapping after a voter's restart", by=int(excused))
            require(
                excused,
                f"{one.node_id} (term {one.term}, {one.periods}) and {other.node_id} "
                f"(term {other.term}, {other.periods}) act as leaders at once",
            )
