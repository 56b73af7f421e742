"""What only a leader does: replicate, commit, keep its lease, serve reads, change members.

One `Leader` is one term of leadership. It is made when an election is won and dropped when the
node steps down, so that match indexes, lease, reads and transfers cannot survive the term.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from nefia.errors import ChangeInProgress, NotMember, PeerUnreachable
from nefia.raft.configuration import PROMOTED, Configuration, Note, is_single_server_change
from nefia.raft.effects import (
    ConfigurationChanged,
    Fetch,
    HandedOver,
    ReadReady,
    SendSnapshot,
    TransferEnded,
)
from nefia.raft.entries import Entry, Payload, SnapshotMeta
from nefia.raft.lease import Rounds
from nefia.raft.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    InstallSnapshotReply,
    TimeoutNow,
)
from nefia.raft.progress import Mode, Progress
from nefia.raft.quorum import agreed_value

if TYPE_CHECKING:
    from nefia.raft.core import Raft

MAX_APPEND_BYTES = 1024 * 1024
MAX_APPEND_ENTRIES = 1024
"""Of one AppendEntries; a single entry may be larger."""

PROMOTION_LAG_ENTRIES = 64
"""A learner that is at most so far behind is caught up (4.2.1)."""

RESEND_HEARTBEATS = 4
"""Messages unanswered for so many heartbeats are taken for lost."""

DEPARTURE_TIMEOUTS = 10
"""A removed node is told of its removal for at most so many heartbeat timeouts."""


@frozen
class _Read:
    """To be answered with `index` once a majority has answered `round`."""

    token: int
    index: int
    round: int


@frozen
class _Transfer:
    target: str
    deadline: float
    sent: bool = False


@frozen
class _Departure:
    """A former member that is still to learn of `index`, the configuration without it.

    Until that is committed it gets nothing from `index` on: its log must not become newer than
    those of the nodes that decide, or it might refuse its vote to the only one that can lead.
    """

    index: int
    deadline: float = math.inf


class Leader:
    """The leader's volatile state (paper, figure 2), and its timers. Changes only `raft`'s log,
    durability, commit index and effects."""

    def __init__(self, raft: Raft) -> None:
        self.raft = raft
        self.term_start = raft.log.last_index + 1
        self.began_at = raft.now
        self.clear_at = raft.election.clear_at
        """When the tenures of all earlier leaders are over (`raft.tenure`)."""
        self.rounds = Rounds()
        self.progress: dict[str, Progress] = {}
        self._departures: dict[str, _Departure] = {}
        self._reads: deque[_Read] = deque()
        self._transfer: _Transfer | None = None
        self._heartbeat_due = raft.now
        self._confirmed_round = 0
        self._confirmed_at = -math.inf

    def begin(self) -> None:
        """Open the term with a no-op, since only an entry of it can be counted (5.4.2, 6.4)."""
        self._follow_configuration()
        self.append([None])
        self._begin_round()

    # Time: lease, check-quorum, heartbeats.

    @property
    def lease_end(self) -> float:
        if self.handed_over:
            return -math.inf  # the lease ends before leadership is handed over
        return self._confirmed_at + self.raft.options.leader_lease

    @property
    def _quorum_deadline(self) -> float:
        """A leader whom no majority has answered for a lease's length steps down (6.2)."""
        return max(self._confirmed_at, self.began_at) + self.raft.options.leader_lease

    @property
    def _write_deadline(self) -> float:
        since = self.raft.durability.out_since
        return math.inf if since is None else since + self.raft.options.heartbeat_timeout

    @property
    def deadline(self) -> float:
        transfer_deadline = self._transfer.deadline if self._transfer else math.inf
        return min(
            self._heartbeat_due, self._quorum_deadline, self._write_deadline, transfer_deadline
        )

    @property
    def transferring(self) -> bool:
        return self._transfer is not None

    @property
    def handed_over(self) -> bool:
        return self._transfer is not None and self._transfer.sent

    def observe(self) -> None:
        """Before any input: whether the right to lead has run out."""
        now = self.raft.now
        if self._voters <= {self.raft.node_id}:
            self._confirm()  # its own answer is the majority's
        if now >= self._write_deadline:
            self.resign("a write to the disk hangs")
        elif now >= self._quorum_deadline:
            silent = now - max(self._confirmed_at, self.began_at)
            self._step_down(f"no majority has answered for {silent:.2f} s")
        elif self._transfer and now >= self._transfer.deadline:
            self._end_transfer("it took too long")

    def tick(self) -> None:
        if self.raft.now >= self._heartbeat_due:
            self._begin_round()

    def _begin_round(self) -> None:
        """A heartbeat to everyone, and new attempts where messages seem lost."""
        options, now = self.raft.options, self.raft.now
        self.rounds.begin(now)
        self._heartbeat_due = now + options.heartbeat_interval
        for node_id, progress in self.progress.items():
            unanswered = progress.unanswered_since()
            patience = RESEND_HEARTBEATS * options.heartbeat_interval
            if unanswered is not None and now - unanswered > patience:
                progress.lost_messages()
            self._send_append(node_id, progress, progress.match_index, ())
            if progress.snapshot:
                self._send_install(node_id, progress.snapshot)
            self._replicate(node_id, progress)
        self._pursue_transfer(again=True)
        self._drop_departures()
        self._confirm()

    def _confirm(self) -> None:
        """Find the newest round that a majority has answered, and what follows from it."""
        acked = {node_id: p.acked_round for node_id, p in self.progress.items()}
        acked[self.raft.node_id] = self.rounds.latest
        self._confirmed_round = agreed_value(self._voters, acked)
        begun_at = self.rounds.begun_at(self._confirmed_round)
        if self._voters <= {self.raft.node_id}:
            begun_at = self.raft.now
        if begun_at is not None:
            self._confirmed_at = max(self._confirmed_at, begun_at)
        self._answer_reads()

    def _step_down(self, reason: str) -> None:
        self.raft.become_follower(self.raft.term, None, reason)

    def resign(self, reason: str) -> None:
        """Stop leading, and let the best follower begin at once: that needs no disk (SPEC 5)."""
        target = self._best_follower()
        if target is not None:
            self._send_timeout_now(target)
        self._step_down(reason)

    # Replication (paper 5.3).

    @property
    def _voters(self) -> frozenset[str]:
        return self.raft.log.configuration.voters

    def append(self, payloads: Sequence[Payload]) -> int:
        """Append entries of this term and send them on; returns the first one's index."""
        log = self.raft.log
        first = log.last_index + 1
        log.append(
            [Entry(first + i, self.raft.term, payload) for i, payload in enumerate(payloads)]
        )
        # Sending does not wait for the leader's own disk (10.2.1); counting itself does.
        self.raft.durability.log_changed(first)
        self._replicate_all()
        return first

    def persisted(self) -> None:
        self._advance_commit()

    def _replicate_all(self) -> None:
        for node_id, progress in self.progress.items():
            self._replicate(node_id, progress)

    def _replicate(self, node_id: str, progress: Progress) -> None:
        """Send what `node_id` lacks, as far as the limits allow."""
        log = self.raft.log
        departure = self._departures.get(node_id)
        last = log.last_index
        if departure:
            last = departure.index if departure.deadline < math.inf else departure.index - 1
        while progress.may_send and progress.next_index <= last:
            first = progress.next_index
            if first <= log.base_index:
                progress.begin_snapshot()
                self.raft.effects.snapshots.append(SendSnapshot(node_id, log.base_index))
                return
            if first < log.first_in_memory:
                progress.fetching = True
                window = min(last, log.first_in_memory - 1, first + MAX_APPEND_ENTRIES - 1)
                self.raft.effects.fetch.append(Fetch(node_id, first, window))
                return
            entries = log.in_memory(first, last, MAX_APPEND_BYTES, MAX_APPEND_ENTRIES)
            self._send_append(node_id, progress, first - 1, entries)

    def _send_append(
        self, node_id: str, progress: Progress, prev_index: int, entries: tuple[Entry, ...]
    ) -> None:
        prev_term = self.raft.log.term_at(prev_index)
        if prev_term is None:  # compacted: claim nothing, so that nothing is committed by it
            prev_index = prev_term = 0
        self.raft.send(
            AppendEntries(
                sender=self.raft.node_id,
                recipient=node_id,
                term=self.raft.term,
                prev_log_index=prev_index,
                prev_log_term=prev_term,
                entries=entries,
                commit_index=self.raft.commit_index,
                round=self.rounds.latest,
                cluster_ms=self.raft.cluster_ms,
                tenure_ms=self.raft.options.tenure_ms,
            )
        )
        if entries:
            size_bytes = sum(entry.size_bytes for entry in entries)
            progress.sent(entries[-1].index, size_bytes, self.raft.now, self.rounds.latest)

    def fetched(self, node_id: str, entries: Sequence[Entry]) -> None:
        progress = self.progress.get(node_id)
        if progress is None or not progress.fetching:
            return
        progress.fetching = False
        log = self.raft.log
        # What was read may be of before an election in between that replaced it.
        valid = bool(entries) and all(log.term_at(e.index) == e.term for e in entries)
        if valid and progress.may_send and entries[0].index == progress.next_index > log.base_index:
            self._send_append(node_id, progress, entries[0].index - 1, tuple(entries))
        self._replicate(node_id, progress)

    def on_reply(self, reply: AppendReply | InstallSnapshotReply) -> None:
        progress = self.progress.get(reply.sender)
        if progress is None or reply.round > self.rounds.latest:
            return
        is_new_round = progress.heard(reply.round, self.raft.now)
        if isinstance(reply, AppendReply) and not reply.success:
            index, _ = self.raft.log.newest_at_most(reply.hint_index, reply.hint_term)
            progress.refused(reply.prev_log_index, index + 1)
        elif progress.matched(reply.match_index):
            if reply.match_index > self.raft.commit_index:
                self._advance_commit()
            if self.raft.leader is not self:
                return  # what was committed was this node's removal
            self._drop_departures()
        if is_new_round:
            self._confirm()
        if reply.sender not in self.progress:
            return  # it has heard of its removal, which is all that it is still told
        self._replicate(reply.sender, progress)
        self._pursue_transfer()
        self._pursue_promotion(reply.sender, progress)

    def _advance_commit(self) -> None:
        """Commit what a majority has stored, if it is of this term (paper 5.4.2)."""
        raft = self.raft
        matched = {node_id: p.match_index for node_id, p in self.progress.items()}
        matched[raft.node_id] = raft.durability.durable_index
        index = agreed_value(self._voters, matched)
        if index <= raft.commit_index or raft.log.term_at(index) != raft.term:
            return
        was_changing = self.changing
        raft.advance_commit(index)
        self._answer_reads()
        if was_changing and not self.changing:
            self._configuration_committed()

    def connected(self, node_id: str) -> None:
        progress = self.progress.get(node_id)
        if progress:
            progress.lost_messages()
            self._send_append(node_id, progress, progress.match_index, ())
            self._replicate(node_id, progress)

    def unreachable(self, node_id: str) -> None:
        progress = self.progress.get(node_id)
        if progress:
            progress.lost_messages()

    # Snapshots (5.3).

    def snapshot_sent(self, node_id: str, snapshot: SnapshotMeta | None) -> None:
        progress = self.progress.get(node_id)
        if progress is None or progress.mode is not Mode.SNAPSHOT:
            return
        if snapshot is None or snapshot.index < self.raft.log.base_index:
            progress.snapshot_failed()
        else:
            progress.snapshot = snapshot
            self._send_install(node_id, snapshot)

    def _send_install(self, node_id: str, snapshot: SnapshotMeta) -> None:
        self.raft.send(
            InstallSnapshot(
                sender=self.raft.node_id,
                recipient=node_id,
                term=self.raft.term,
                snapshot=snapshot,
                round=self.rounds.latest,
                tenure_ms=self.raft.options.tenure_ms,
            )
        )

    # Linearizable reads (6.4).

    def read(self, token: int) -> None:
        """One round serves all reads that wait for it; it must begin after the read arrived."""
        idle = self._confirmed_round == self.rounds.latest
        index = max(self.raft.commit_index, self.term_start)
        self._reads.append(_Read(token, index, self.rounds.latest + 1))
        if idle:
            self._begin_round()

    def _answer_reads(self) -> None:
        if self.raft.commit_index < self.term_start:
            return  # it cannot know yet what its predecessors committed
        while self._reads and self._reads[0].round <= self._confirmed_round:
            read = self._reads.popleft()
            self.raft.effects.reads.append(ReadReady(read.token, read.index))
        if self._reads and self._confirmed_round == self.rounds.latest:
            self._begin_round()

    # Membership (4.1, 4.2).

    @property
    def changing(self) -> bool:
        """Whether a configuration is not committed yet."""
        return self.raft.log.configuration_index > self.raft.commit_index

    @property
    def may_change(self) -> bool:
        """One change at a time, and none before an entry of this term is committed.

        The second half closes the hole that was found in 2015 in single-server changes: without
        it two configurations whose majorities do not overlap could both be decided.
        """
        return self.raft.commit_index >= self.term_start and not self.changing

    def change(self, configuration: Configuration) -> int:
        if self.transferring:
            raise ChangeInProgress("leadership is being handed over")
        if self.changing:
            raise ChangeInProgress("an earlier change of the members is not committed yet")
        if not self.may_change:
            raise ChangeInProgress("this node has only just begun to lead; try again in a moment")
        assert configuration.voters, "a cluster has voters"
        assert is_single_server_change(self.raft.log.configuration, configuration)
        if configuration.note.kind:
            note = evolve(configuration.note, time_ms=self.raft.cluster_ms)
            configuration = evolve(configuration, note=note)
        index = self.raft.log.last_index + 1
        self._follow_configuration(configuration, index)
        self.append([configuration])
        self.raft.notice(ConfigurationChanged(index, configuration, False))
        self._confirm()
        self._advance_commit()
        return index

    def _follow_configuration(
        self, configuration: Configuration | None = None, index: int | None = None
    ) -> None:
        """Have a `Progress` for every member but oneself, and for those who are leaving."""
        configuration = configuration or self.raft.log.configuration
        index = index or self.raft.log.last_index + 1
        others = configuration.ids - {self.raft.node_id}
        for node_id in sorted(others):
            if self._departures.pop(node_id, None):
                del self.progress[node_id]  # it may come back with an empty log: believe nothing
            self.progress.setdefault(node_id, Progress(next_index=index))
        for node_id in sorted(self.progress.keys() - others):
            self._departures.setdefault(node_id, _Departure(index))

    def _configuration_committed(self) -> None:
        limit = self.raft.now + DEPARTURE_TIMEOUTS * self.raft.options.heartbeat_timeout
        for node_id, departure in self._departures.items():
            self._departures[node_id] = evolve(departure, deadline=limit)
            self._replicate(node_id, self.progress[node_id])
        if not self.raft.log.configuration.is_voter(self.raft.node_id):
            self.resign("this node is no longer a voter")  # 4.2.2

    def _drop_departures(self) -> None:
        for node_id, departure in list(self._departures.items()):
            told = self.progress[node_id].match_index >= departure.index
            if told or self.raft.now >= departure.deadline:
                del self._departures[node_id]
                del self.progress[node_id]

    def _pursue_promotion(self, node_id: str, progress: Progress) -> None:
        """Make a learner that has caught up a voter, if that is wanted (4.2.1)."""
        member = self.raft.log.configuration.get(node_id)
        if member is None or member.voter or not member.promote or not member.instance:
            return
        if member.features < self.raft.log.configuration.features:
            return  # it could not read what the others agree on
        caught_up = self.raft.log.last_index - progress.match_index <= PROMOTION_LAG_ENTRIES
        if caught_up and progress.match_index and self.may_change and not self.transferring:
            voter = evolve(member, voter=True, promote=False)
            note = Note(PROMOTED, node_id)
            self.change(self.raft.log.configuration.with_member(voter, note))

    # Leadership transfer (3.10).

    def begin_transfer(self, target: str | None) -> str:
        if self._transfer or self.changing:
            raise ChangeInProgress("another change or transfer is under way")
        if target is None:
            target = self._best_follower()
            if target is None:
                raise PeerUnreachable("no other voter answers, so that none can take over")
        if target not in self._voters or target == self.raft.node_id:
            raise NotMember(f"{target} is no other voter of this cluster")
        deadline = self.raft.now + self.raft.options.election_timeout
        self._transfer = _Transfer(target, deadline)
        self._pursue_transfer()
        return target

    def _pursue_transfer(self, *, again: bool = False) -> None:
        """Once the target has everything, tell it; `again` in case that message was lost."""
        transfer = self._transfer
        if transfer is None or (transfer.sent and not again):
            return
        if self.progress[transfer.target].match_index == self.raft.log.last_index:
            if not transfer.sent:
                self.raft.notice(HandedOver(transfer.target))
            self._transfer = evolve(transfer, sent=True)
            self._send_timeout_now(transfer.target)

    def _end_transfer(self, reason: str) -> None:
        transfer = self._transfer
        assert transfer is not None
        if transfer.sent:
            # The target may win any moment without the others' stickiness, so no lease of this
            # term can be relied on any more.
            self._step_down(f"handed over to {transfer.target}, which did not take over")
        else:
            self._transfer = None
            self.raft.notice(TransferEnded(transfer.target, reason))

    def _send_timeout_now(self, target: str) -> None:
        self.raft.send(TimeoutNow(sender=self.raft.node_id, recipient=target, term=self.raft.term))

    def _best_follower(self) -> str | None:
        """The voter with the longest known log among those heard lately."""
        since = self.raft.now - self.raft.options.heartbeat_timeout
        candidates = [
            (progress.match_index, node_id)
            for node_id, progress in self.progress.items()
            if node_id in self._voters
            and progress.heard_at is not None
            and progress.heard_at >= since
        ]
        return max(candidates)[1] if candidates else None
