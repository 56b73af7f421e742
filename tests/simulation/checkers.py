"""What must hold in every history of a cluster, checked at every step (paper, figure 3; SPEC 5).

The ledger is what the cluster as a whole has decided: index to term, written down the first time
that any node takes the entry for committed, and never changed. `committed_in`: leader's term to
the newest index that was committed in it. `granted`: term and candidate to all who voted so.
`voters`: name and data directory of all that any configuration ever let vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from nefia.raft.configuration import Configuration
from nefia.raft.core import Raft
from nefia.raft.effects import Effects, ReadReady
from nefia.raft.entries import Entry, HardState, Payload
from nefia.raft.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshotReply,
    Message,
    PreVote,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from nefia.raft.progress import Progress
from nefia.raft.quorum import majority
from nefia.raft.roles import Role
from tests.simulation.tenures import Overlap, Tenures

if TYPE_CHECKING:
    from tests.simulation.core_node import SimulatedNode
    from tests.simulation.core_simulator import Simulator


class Violation(Exception):
    """A promise was broken."""


def require(holds: bool, promise: str) -> None:
    if not holds:
        raise Violation(promise)


@define
class _Seen:
    """What one process showed at its last step; nothing of it may go back."""

    hard_state: HardState
    commit_index: int
    leader_term: int = 0
    configuration_index: int = 0
    handed_over_term: int = 0
    matched: dict[str, tuple[Progress, int]] = field(factory=dict)


@frozen
class _Election:
    at: float
    term: int
    leader: str


class Checkers:
    def __init__(self, world: Simulator) -> None:
        self.world = world
        self.ledger: dict[int, int] = {}
        self.committed_index = 0
        self.committed_in: dict[int, int] = {}
        self.digests: dict[int, int] = {}
        self.leaders: dict[int, str] = {}
        self.entries: dict[tuple[int, int], tuple[int, Payload]] = {}
        self.configurations: dict[tuple[int, int], Configuration] = {}
        self.votes: dict[tuple[str, int], str] = {}
        self.granted: dict[tuple[int, str], set[str]] = {}
        self.voters: set[tuple[str, str]] = set()
        self.reads: dict[int, int] = {}
        self.tenures = Tenures()
        self.last_start = -10.0
        self.lease_exclusivity = True
        self._elections: list[_Election] = []
        self._seen: dict[str, _Seen] = {}

    # One process, step by step.

    def started(self, node: SimulatedNode) -> None:
        raft = node.raft
        assert raft is not None
        before = self._seen.get(node.id)
        if before:
            self._legal(before.hard_state, raft.hard_state, restarted=True)
        self._seen[node.id] = _Seen(raft.hard_state, raft.commit_index)
        self.last_start = self.world.now
        if raft.commit_index:
            self._decided(raft, raft.commit_index - 1)

    def wiped(self, node: SimulatedNode) -> None:
        self._seen.pop(node.id, None)

    @staticmethod
    def _legal(old: HardState, new: HardState, *, restarted: bool = False) -> None:
        """A restart may forget what nobody was told of; `sending` sees to it that nobody was."""
        if restarted:
            return
        require(new.term >= old.term, f"the term went back: {old} to {new}")
        if new.term == old.term:
            require(old.vote in (None, new.vote), f"the vote was changed: {old} to {new}")

    def after_input(self, node: SimulatedNode, raft: Raft) -> None:
        seen = self._seen[node.id]
        if raft.hard_state is not seen.hard_state:
            self._legal(seen.hard_state, raft.hard_state)
            seen.hard_state = raft.hard_state
        if raft.commit_index != seen.commit_index:
            require(raft.commit_index > seen.commit_index, "the commit index went back")
            self._decided(raft, seen.commit_index)
            seen.commit_index = raft.commit_index
        if raft.leader:
            self._leads(node, raft, seen)
        if self._elections and raft.leader:
            self._lease_is_exclusive(node, raft)

    @staticmethod
    def heard(raft: Raft, message: Message) -> None:
        """Who hears of a newer term takes it over (5.1), unless asked for a vote (4.2.3, 9.6)."""
        if message.term > raft.term and not raft.halted:
            require(
                isinstance(message, PreVote | RequestVote),
                f"{raft.node_id} stays in term {raft.term} although it has heard {message}",
            )

    def _decided(self, raft: Raft, before: int) -> None:
        """State machine safety: what anyone has committed is the same everywhere, for ever."""
        log = raft.log
        for index in range(max(before + 1, log.base_index, 1), raft.commit_index + 1):
            term = log.term_at(index)
            assert term is not None
            known = self.ledger.setdefault(index, term)
            require(known == term, f"entry {index} was decided in term {known} and in {term}")
        if raft.commit_index > self.committed_index:
            if raft.role is Role.LEADER:
                self.committed_in[raft.term] = raft.commit_index
                own = log.term_at(raft.commit_index) == raft.term
                require(own, "a leader commits an entry of an older term by counting (5.4.2)")
                self._stored_by_majority(raft)
            self.committed_index = raft.commit_index

    def _stored_by_majority(self, raft: Raft) -> None:
        index, term = raft.commit_index, raft.log.term_at(raft.commit_index)
        voters = raft.log.configuration.voters
        disks = {voter: self.world.nodes[voter].disk for voter in voters}
        stored = [v for v, disk in disks.items() if disk.term_at(index) == term]
        # A follower may have compacted past the entry, which it could only once it was decided.
        stored += [v for v, disk in disks.items() if disk.base_index > index]
        require(
            len(stored) >= majority(voters),
            f"entry {index} was committed but is durable only on {sorted(stored)}",
        )

    def _leads(self, node: SimulatedNode, raft: Raft, seen: _Seen) -> None:
        assert raft.leader
        if seen.leader_term != raft.term:
            seen.leader_term = raft.term
            seen.matched = {}
            self._elected(node, raft)
        self._has_the_right_to_lead(node, raft, seen)
        try:
            begun = self.tenures.begun
            self.tenures.observe(node, raft, self.world.now)
            self.world.count("tenures begun", self.tenures.begun - begun)
        except Overlap as error:
            raise Violation(str(error)) from error
        if raft.log.configuration_index != seen.configuration_index:
            seen.configuration_index = raft.log.configuration_index
            for peer, progress in raft.leader.progress.items():
                self._is_held(raft, peer, progress.match_index)
        for peer, progress in raft.leader.progress.items():
            known = seen.matched.get(peer)
            before = known[1] if known and known[0] is progress else 0
            if progress.match_index != before:
                require(progress.match_index > before, f"match index of {peer} went back")
                require(progress.match_index < progress.next_index, "next is above match")
                self._is_held(raft, peer, progress.match_index)
            seen.matched[peer] = (progress, progress.match_index)
        if raft.commit_index >= raft.leader.term_start:
            log = raft.log
            if log.configuration_index > raft.commit_index:
                earlier, _ = log.configuration_at(log.configuration_index - 1)
                require(earlier <= raft.commit_index, "two configurations are undecided")

    def _has_the_right_to_lead(self, node: SimulatedNode, raft: Raft, seen: _Seen) -> None:
        """A majority has answered lately; and there is no lease after handing over (6.2, 3.10)."""
        assert raft.leader
        if seen.handed_over_term == raft.term:
            require(raft.lease_end == -inf, f"the lease of {node.id} survives handing over")
        else:
            patience_end = raft.leader.began_at + self.world.scenario.options.leader_lease
            answered = node.local(self.world.now) < max(raft.lease_end, patience_end)
            require(
                answered or raft.leader.handed_over,
                f"{node.id} acts in term {raft.term} although no majority has answered for a lease",
            )

    def _is_held(self, raft: Raft, peer: str, match_index: int) -> None:
        """What a leader counts on is on that member's disk, unless a later leader took it away."""
        node, member = self.world.nodes[peer], raft.log.configuration.get(peer)
        same = member is not None and member.instance == node.instance
        if same and node.disk.hard_state.term <= raft.term:
            require(
                match_index <= node.disk.last_index,
                f"{raft.node_id} counts on {peer} for entry {match_index}, but the disk there "
                f"ends at {node.disk.last_index}",
            )

    def _elected(self, node: SimulatedNode, raft: Raft) -> None:
        """Election safety and leader completeness."""
        world = self.world
        world.count("elections won")
        world.record(node.id, f"leads term {raft.term}")
        world.elected(node)
        other = self.leaders.setdefault(raft.term, node.id)
        require(other == node.id, f"{other} and {node.id} both lead term {raft.term}")
        voters = raft.log.configuration.voters
        votes = voters & (self.granted.get((raft.term, node.id), set()) | {node.id})
        require(len(votes) >= majority(voters), f"{node.id} leads by the votes of {sorted(votes)}")
        # A leader that is elected late, in a term that is over already, need not have more.
        top = max((i for term, i in self.committed_in.items() if term < raft.term), default=0)
        if top:
            term = raft.log.term_at(top)
            lacks = term != self.ledger[top] and raft.log.base_index < top
            require(not lacks, f"{node.id} leads without the committed entry {top}")
        # A restarted voter has forgotten whom it heard; nothing else may shorten a lease.
        forgetful = self.last_start + world.scenario.options.leader_lease * 1.05
        if self.lease_exclusivity and world.now > forgetful:
            self._elections.append(_Election(world.now, raft.term, node.id))
            for peer in world.nodes.values():
                if peer.raft and peer.raft.leader and peer is not node:
                    self._lease_is_exclusive(peer, peer.raft)

    def _lease_is_exclusive(self, node: SimulatedNode, raft: Raft) -> None:
        """Stickiness (4.2.3): nobody is elected while a lease of an older term runs."""
        if raft.lease_end == -inf:
            return
        lease_end = node.real(raft.lease_end)
        for election in reversed(self._elections):
            if election.term <= raft.term:
                break
            require(
                lease_end <= election.at,
                f"{election.leader} was elected in term {election.term} at {election.at:.4f} "
                f"while the lease of {node.id} in term {raft.term} runs to {lease_end:.4f}",
            )

    # Effects.

    def after_take(self, node: SimulatedNode, raft: Raft, effects: Effects) -> None:
        write = effects.write
        if write and write.entries:
            before = raft.log.term_at(write.entries[0].index - 1)
            assert before is not None
            self._log_matching(before, write.entries)
            self._changes_in_time(raft, write.entries)
        self._configuration_is_of_the_log(raft)

    @staticmethod
    def _changes_in_time(raft: Raft, entries: Sequence[Entry]) -> None:
        """A leader changes members once an entry of its term is committed (4.1, and the bug that
        was found in 2015)."""
        if raft.leader and raft.commit_index < raft.leader.term_start:
            early = [e for e in entries if e.term == raft.term and type(e.payload) is Configuration]
            require(not early, "members are changed before an entry of the own term is committed")

    def _configuration_is_of_the_log(self, raft: Raft) -> None:
        """What is in force is what the log has there, not what was truncated (4.1)."""
        index, configuration = raft.log.configuration_at(raft.log.last_index)
        term = raft.log.term_at(index)
        if term is not None and index > raft.log.base_index and (index, term) in self.entries:
            payload = self.entries[index, term][1]
            require(payload == configuration, f"a configuration at {index} that is not in the log")

    def _log_matching(self, before: int, entries: Sequence[Entry]) -> None:
        """Two entries of one index and term are equal, and so is all before them (5.3)."""
        for entry in entries:
            known = self.entries.setdefault((entry.index, entry.term), (before, entry.payload))
            if isinstance(entry.payload, Configuration):
                self.configurations[entry.index, entry.term] = entry.payload
                self.voters |= {(m.id, m.instance) for m in entry.payload.members if m.voter}
            require(
                known == (before, entry.payload),
                f"two logs differ at or before entry {entry.index} of term {entry.term}",
            )
            before = entry.term

    def sending(self, node: SimulatedNode, raft: Raft, message: Message) -> None:
        """Nothing is said that rests on what is not yet durable."""
        disk = node.disk
        require(disk.hard_state.term >= message.term, f"{message} says a term that is not durable")
        match message:
            case PreVote():
                self._may_stand(node)
            case RequestVote():
                self._may_stand(node)
                self._vote(node, message.term, node.id)
            case TimeoutNow():
                self._seen[node.id].handed_over_term = message.term
            case VoteReply(granted=True):
                self._vote(node, message.term, message.recipient)
            case (
                AppendReply(success=True, match_index=index)
                | InstallSnapshotReply(match_index=index)
            ):
                self._is_stored(node, raft, message, index)
            case AppendEntries(entries=entries) if entries:
                self._log_matching(message.prev_log_term, entries)
            case _:
                pass

    def _may_stand(self, node: SimulatedNode) -> None:
        """A node that was wiped is not who had its name before."""
        known = (node.id, node.instance) in self.voters
        require(known, f"{node.id} stands for election, but with this data it never was a voter")

    def _vote(self, node: SimulatedNode, term: int, candidate: str) -> None:
        stored = node.disk.hard_state
        durable = stored.term > term or (stored.term, stored.vote) == (term, candidate)
        require(durable, f"{node.id} votes for {candidate} in {term} with {stored} on its disk")
        known = self.votes.setdefault((node.instance, term), candidate)
        require(known == candidate, f"{node.id} votes for {known} and {candidate} in term {term}")
        self.granted.setdefault((term, candidate), set()).add(node.id)

    @staticmethod
    def _is_stored(node: SimulatedNode, raft: Raft, message: Message, index: int) -> None:
        disk, log = node.disk, raft.log
        if index <= min(disk.base_index, log.base_index):
            return
        stored = index <= disk.base_index or disk.term_at(index) is not None
        require(stored, f"{node.id} says {message}, but its disk ends at {disk.last_index}")
        # A newer term's leader may have replaced entries in the pass that the answer was given in.
        if message.term == raft.term and index > max(disk.base_index, log.base_index):
            require(
                disk.term_at(index) == log.term_at(index),
                f"{node.id} acknowledges entry {index}, of which its disk has another",
            )

    def applied(self, node: SimulatedNode) -> None:
        known = self.digests.setdefault(node.applied_index, node.digest)
        require(known == node.digest, f"{node.id} has another state at {node.applied_index}")

    # Reads.

    def read_asked(self, token: int) -> None:
        self.reads[token] = self.committed_index

    def read_ready(self, node: SimulatedNode, read: ReadReady) -> None:
        asked_at = self.reads.pop(read.token)
        require(
            read.index >= asked_at,
            f"{node.id} answers a read at {read.index}, asked when {asked_at} was committed",
        )
        self.world.count("linearizability checks")

    # The end.

    def nothing_is_lost(self, raft: Raft) -> None:
        """Every entry that was ever committed is in the log of the last leader."""
        for index, term in self.ledger.items():
            if raft.log.base_index <= index:
                require(raft.log.term_at(index) == term, f"the committed entry {index} is lost")

    def undecided_configurations(self) -> list[Configuration]:
        """The newest committed one, and those that were ever sent or written and may still be."""
        decided = [key for key in self.configurations if self.ledger.get(key[0]) == key[1]]
        open_ = [key for key in self.configurations if key[0] > self.committed_index]
        return [self.configurations[key] for key in [max(decided), *open_]]
