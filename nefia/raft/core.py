"""Raft: the one mutable protocol object (paper, figure 2; dissertation 3 and 4).

The driver calls an input (`step`, `tick`, `propose`, ...) with the present time, then `take()`s
the effects and performs them; `deadline` says when `tick` is due next. One object is one node; it
is not thread-safe, does no I/O, and reads neither clock nor global randomness.

Here are terms, roles and the funnel for messages. `election.Election` asks for votes and gives
them, `follower.Follower` accepts a leader's log, and `leader.Leader` is what only a leader does: it
exists exactly while this node leads, so that nothing of it can outlive the term. The role is set by
the four `become_...` methods alone; each re-arms every timer that it owns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import assert_never

from attrs import evolve

from nefia.errors import NotLeader
from nefia.raft import invariants
from nefia.raft.configuration import Configuration
from nefia.raft.durability import Durability
from nefia.raft.effects import (
    ConfigurationChanged,
    Effects,
    Fetch,
    LeaderChanged,
    Notice,
    Removed,
    RoleChanged,
)
from nefia.raft.election import Election
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.follower import Follower
from nefia.raft.leader import Leader
from nefia.raft.log import Log
from nefia.raft.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from nefia.raft.options import Options
from nefia.raft.roles import TRANSITIONS, Role
from nefia.raft.tenure import left_ms

BOOTSTRAP_ENTRY_TERM = 1
MAX_HAND_OVER_BYTES = 1024 * 1024
MAX_HAND_OVER_ENTRIES = 1024
"""How much of the log is handed to the state machine at once."""


class Raft:
    """One node's protocol state.

    `instance` is that of its data directory (see `Member`), empty if it is known by none.
    `hard_state`, `log`: see their classes. `commit_index` never decreases; `applied_index` is how
    far committed entries were handed to the driver, and never exceeds it. `leader_id` is whom this
    node takes for the leader of its term, `heard_at` when it last heard it. `contact_at`: when
    it last heard any leader, ceased to lead or was started. `cluster_ms` is set by the driver and
    carried in the leader's messages. `campaign_reason`: why this node first
    campaigned since it last followed a leader.
    """

    def __init__(
        self,
        *,
        node_id: str,
        instance: str = "",
        options: Options,
        random: Random,
        now: float,
        hard_state: HardState | None = None,
        log: Log | None = None,
        applied_index: int = 0,
    ) -> None:
        self.node_id = node_id
        self.instance = instance
        self.options = options
        self.now = now
        self.hard_state = hard_state or HardState()
        self.log = log or Log()
        self.durability = Durability(self.log.last_index)
        self.commit_index = self.applied_index = max(applied_index, self.log.base_index)
        self.role = Role.FOLLOWER
        self.leader: Leader | None = None
        self.leader_id: str | None = None
        self.heard_at = -math.inf
        self.contact_at = now
        self.cluster_ms = 0
        self.campaign_reason = ""
        self.halted = False
        self.effects = Effects()
        self._fetching = False
        self._told_removed_by = (0, 0)  # term, index
        self._removal_noticed = False
        self._configuration_noticed = self.log.configuration_at(self.commit_index)[0]
        self.election = Election(self, random)
        self._follower = Follower(self)

    # What the driver and status ask.

    @property
    def term(self) -> int:
        return self.hard_state.term

    @property
    def deadline(self) -> float:
        """When `tick` is due next; infinity if nothing is."""
        if self.halted:
            return math.inf
        if self._hand_over_due:
            return self.now
        if self.leader:
            return self.leader.deadline
        return self.election.due if self.election.may_campaign else math.inf

    @property
    def lease_end(self) -> float:
        """Until when this node may act as the leader; -infinity if it may not."""
        return self.leader.lease_end if self.leader and not self.halted else -math.inf

    @property
    def write_is_out(self) -> bool:
        """Whether the disk is busy, so that what is proposed now has to wait for its turn."""
        return self.durability.out_since is not None

    @property
    def write_hangs(self) -> bool:
        """Whether a write takes so long that this node must not lead: it cannot even vote."""
        since = self.durability.out_since
        return since is not None and self.now - since >= self.options.heartbeat_timeout

    @property
    def tenure_left_ms(self) -> int:
        """For so long services of an earlier leader may run, as far as this node can tell."""
        return left_ms(self.hard_state.tenure_ms, self.now - self.contact_at)

    def votes_in(self, configuration: Configuration) -> bool:
        """Whether this node, and not an earlier one of its name, is a voter there."""
        member = configuration.get_instance(self.node_id, self.instance)
        return member is not None and member.voter

    @property
    def removed_by(self) -> int:
        """Index of a committed configuration without this node, newer than the newest with it.

        0 if there is none, as far as this node knows. By its own log, or by what it was told: then
        terms count first, since its own newest configuration may be one that never came to be.
        """
        told = self._told_removed_by
        if told == (0, 0) and self.log.configuration.get_instance(self.node_id, self.instance):
            return 0
        newest_with_me = self.log.newest_configuration_with(self.node_id, self.instance)
        own_term = self.log.term_at_or_before(newest_with_me)
        if told > (own_term, newest_with_me):
            return told[1]
        index, committed = self.log.configuration_at(self.commit_index)
        absent = committed.get_instance(self.node_id, self.instance) is None
        return index if absent and 0 < newest_with_me < index else 0

    @property
    def removed(self) -> bool:
        return self.removed_by > 0

    @property
    def state_name(self) -> str:
        """The state of SPEC 3."""
        if self.role is Role.LEADER:
            return "Leader"
        if self.removed:
            return "Removed"
        if not self.log.configuration.members:
            return "Uninitialized"
        if not self.log.configuration.is_voter(self.node_id):
            return "Learner"
        return "Follower" if self.role is Role.FOLLOWER else "Candidate"

    # Inputs.

    def bootstrap(self, now: float, configuration: Configuration) -> None:
        """Begin a new cluster: the first entry of every log is its first configuration."""
        assert self._observe(now)
        assert self.log.last_index == 0
        assert self.term == 0
        self._set_hard_state(HardState(BOOTSTRAP_ENTRY_TERM))
        self.log.append([Entry(1, BOOTSTRAP_ENTRY_TERM, configuration)])
        self.durability.log_changed(1)
        self.election.due = now

    def tick(self, now: float) -> None:
        """Time has passed: whatever timer is due, runs out."""
        if not self._observe(now):
            return
        if self.leader:
            self.leader.tick()
        elif now >= self.election.due and self.election.may_campaign:
            self.become_pre_candidate(self.election.reason)

    def step(self, now: float, message: Message) -> None:
        """A message has arrived, perhaps late, twice or out of order."""
        assert message.recipient == self.node_id
        assert message.sender != self.node_id
        if not self._observe(now):
            return
        self._receive(message)

    def propose(self, now: float, commands: Sequence[bytes]) -> int:
        """Append `commands` to the log; returns the index of the first, the others follow.

        They are in the leader's term: an entry committed at such an index under another term means
        that the command was lost. Raises NotLeader; nothing was changed then.
        """
        leader = self._require_leader(now)
        if leader.transferring:
            raise NotLeader("leadership is being handed over", leader_id=None, leader_addr=None)
        return leader.append(commands)

    def change(self, now: float, configuration: Configuration) -> int:
        """Append a single-server change of the configuration (4.1); returns its index.

        Raises NotLeader or ChangeInProgress; nothing was changed then.
        """
        return self._require_leader(now).change(configuration)

    def transfer(self, now: float, target: str | None) -> str:
        """Begin to hand leadership to `target`, or to the best follower (3.10); returns whom.

        Proposals are refused from here on. Ends with a new leader, or with `TransferEnded`.
        Raises NotLeader, ChangeInProgress, NotMember or PeerUnreachable.
        """
        return self._require_leader(now).begin_transfer(target)

    def resign(self, now: float, reason: str) -> None:
        """Stop leading, if it leads, and let the best follower begin at once."""
        if self._observe(now) and self.leader:
            self.leader.resign(reason)

    def begin_epoch(self, now: float, term: int) -> None:
        """Lead on in `term`, beyond the next: as after a transfer to itself (3.10, SPEC 9).

        Any node may raise its term; that a majority votes for it is what makes the term its own.
        Raises NotLeader.
        """
        self._require_leader(now)
        assert term > self.term
        self.become_follower(term - 1, None, "a new epoch begins")
        self.become_candidate("a new epoch begins", transfer=True)
        self._settle()

    def read(self, now: float, token: int) -> None:
        """Ask for a linearizable read (6.4): `ReadReady` will name `token`, or leadership ends.

        Raises NotLeader.
        """
        self._require_leader(now).read(token)

    def persisted(self, now: float, sequence: int) -> None:
        """The write of that sequence is durable."""
        # First the release: what is on disk is on disk, whatever the time shows.
        self.effects.send += self.durability.persisted(sequence, self.term)
        if not self._observe(now):
            return
        if self.role is Role.CANDIDATE and self.durability.hard_state_is_durable:
            self.election.count_own_vote()
        if self.leader:
            self.leader.persisted()

    def write_failed(self, now: float) -> None:
        """The write that is out has failed: hand over if leading, then fall silent (SPEC 5)."""
        if self._observe(now) and self.leader:
            self.leader.resign("the disk failed")
        self.halted = True

    def fetched(self, now: float, node_id: str, entries: Sequence[Entry]) -> None:
        """The entries of a `Fetch`, as read from storage; none: they were compacted meanwhile."""
        if not self._observe(now):
            return
        if node_id == self.node_id:
            self._fetching = False
            due = [entry for entry in entries if entry.index > self.applied_index]
            assert not due or due[0].index == self.applied_index + 1
            self.effects.committed += due
            self.applied_index += len(due)
        elif self.leader:
            self.leader.fetched(node_id, entries)

    def compact(self, now: float, through: int) -> None:
        """A durable snapshot covers the log up to `through`: entries up to it may go (5.1)."""
        if not self._observe(now):
            return
        through = min(through, self.applied_index, self.durability.durable_index)
        if self.removed_by:
            through = min(through, self.removed_by - 1)  # else it would forget that it was a member
        if through > self.log.base_index:
            self.durability.compacted(self.log.compact(through))

    def snapshot_sent(self, now: float, node_id: str, snapshot: SnapshotMeta | None) -> None:
        """The data of a `SendSnapshot` has arrived at `node_id`; None: it could not be brought."""
        if not self._observe(now):
            return
        if self.leader:
            self.leader.snapshot_sent(node_id, snapshot)

    def connected(self, now: float, node_id: str) -> None:
        """A way to `node_id` has opened: do not wait for the next timer to use it."""
        if not self._observe(now):
            return
        if self.leader:
            self.leader.connected(node_id)
        else:
            self.election.ask_again(node_id)

    def unreachable(self, now: float, node_id: str) -> None:
        """Messages on their way to `node_id` may be lost."""
        if self._observe(now) and self.leader:
            self.leader.unreachable(node_id)

    def peer_lost(self, now: float, node_id: str) -> None:
        """`node_id`'s process has ended: no connection, and a redial proves it (SPEC 5).

        If it led, do not wait for the timeout. Others grant only if they have lost it too, and
        nothing rests on its being gone.
        """
        if not self._observe(now):
            return
        if node_id == self.leader_id:
            self.election.leader_lost = True
            self.election.campaign_by_rank()

    def peers_tried(self, now: float) -> None:
        """After a restart: every peer was dialled once. Whoever knows a leader will refuse us."""
        if self._observe(now) and self.leader_id is None and self.heard_at == -math.inf:
            self.election.campaign_by_rank()

    # Output.

    def take(self) -> Effects:
        """Everything that is to be done since the last call; the driver must do all of it."""
        effects = self.effects
        if not self.halted:
            self._settle()
            effects.write = self.durability.next_write(self.now, self.hard_state, self.log)
        self.effects = Effects()
        return effects

    def send(self, message: Message, *, stored_through: int = 0) -> None:
        """Send, as soon as what the message says is durable. For `Leader` too."""
        self.effects.send += self.durability.send(message, stored_through)

    # Time, and what follows from any input.

    def _observe(self, now: float) -> bool:
        """Take note of the time before anything else; False if this node is halted."""
        if now != self.now:
            assert now > self.now, "time never goes back"
            self.now = now
            if self.leader and not self.halted:
                self.leader.observe()
        return not self.halted

    def _settle(self) -> None:
        """What follows from whatever has happened: hand over commits, forget, check."""
        self._hand_over()
        self.log.evict(min(self.applied_index, self.durability.durable_index))
        removed_by = self.removed_by
        if removed_by and not self._removal_noticed:
            self.notice(Removed(removed_by))
        self._removal_noticed = removed_by > 0
        invariants.check(self)

    def _hand_over(self) -> None:
        """Hand committed entries to the driver, one batch a pass: it has other things to do too."""
        if not self._hand_over_due or self.effects.committed:
            return
        first = self.applied_index + 1
        if first < self.log.first_in_memory:
            last = min(self.commit_index, self.log.first_in_memory - 1)
            self.effects.fetch.append(Fetch(self.node_id, first, last))
            self._fetching = True
            return
        entries = self.log.in_memory(
            first, self.commit_index, MAX_HAND_OVER_BYTES, MAX_HAND_OVER_ENTRIES
        )
        self.effects.committed += entries
        self.applied_index = entries[-1].index

    @property
    def _hand_over_due(self) -> bool:
        return self.applied_index < self.commit_index and not self._fetching

    def _require_leader(self, now: float) -> Leader:
        if self._observe(now) and self.leader:
            return self.leader
        member = self.log.configuration.get(self.leader_id or "")
        raise NotLeader(
            "this node is not the leader",
            leader_id=self.leader_id,
            leader_addr=member.address if member else None,
        )

    def advance_commit(self, index: int) -> None:
        """Entries up to `index` are committed (paper 5.3). Never goes back. For `Leader` too."""
        if index <= self.commit_index:
            return
        assert index <= self.log.last_index
        self.commit_index = index
        configuration_index, configuration = self.log.configuration_at(index)
        if configuration_index > self._configuration_noticed:
            self._configuration_noticed = configuration_index
            self.notice(ConfigurationChanged(configuration_index, configuration, True))

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Begin anew behind a snapshot from the leader: log, state and commit index (5.3)."""
        self.log.reset(snapshot)
        self.durability.log_replaced(snapshot)
        self._fetching = False
        self.effects.committed.clear()
        self.effects.restore = snapshot
        self.applied_index = snapshot.index
        self.advance_commit(snapshot.index)

    def notice(self, notice: Notice) -> None:
        self.effects.notices.append(notice)

    # Roles.

    def _become(self, role: Role, reason: str, leader_id: str | None) -> None:
        assert role in TRANSITIONS[self.role], f"{self.role} to {role}"
        old, self.role = self.role, role
        if old is Role.LEADER:
            self.contact_at = self.now
        if old is not role:
            self.notice(RoleChanged(old, role, self.term, leader_id, reason))
        if leader_id != self.leader_id:
            self.leader_id = leader_id
            self.notice(LeaderChanged(self.term, leader_id))
        self.leader = None
        self.election.over()

    def become_follower(self, term: int, leader_id: str | None, reason: str) -> None:
        """Follow `leader_id`, or nobody yet."""
        if term > self.term:
            self._set_hard_state(evolve(self.hard_state, term=term, vote=None))
        old = self.role
        if leader_id is not None or old is Role.LEADER:
            self.campaign_reason = ""
        self._become(Role.FOLLOWER, reason, leader_id)
        if leader_id is not None or old is Role.LEADER:
            self.election.await_leader()
        elif old is not Role.FOLLOWER:
            self.election.try_again_soon()
        # A follower that only learned of a newer term keeps its timer (paper 5.2: a leader's
        # message or a granted vote resets it), or hopeless candidates could hold it up for ever.

    def become_pre_candidate(self, reason: str) -> None:
        self.campaign_reason = self.campaign_reason or reason
        self._become(Role.PRE_CANDIDATE, reason, None)
        self.election.ask_pre_votes()

    def become_candidate(self, reason: str, *, transfer: bool = False) -> None:
        if transfer:
            self.campaign_reason = reason
        self._set_hard_state(
            HardState(
                self.term + 1,
                self.node_id,
                max(self.hard_state.tenure_ms, self.options.tenure_ms),
            )
        )
        self._become(Role.CANDIDATE, reason, None)
        self.election.ask_votes(transfer=transfer)

    def become_leader(self) -> None:
        self._become(Role.LEADER, "won the election", self.node_id)
        self.election.leader_heard()
        self.leader = Leader(self)
        self.leader.begin()

    def vote_for(self, candidate: str) -> None:
        """Give this term's one vote (paper 5.2)."""
        assert self.hard_state.vote in (None, candidate)
        if self.hard_state.vote is None:
            self._set_hard_state(evolve(self.hard_state, vote=candidate))

    def _set_hard_state(self, hard_state: HardState) -> None:
        assert hard_state.term >= self.term
        self.hard_state = hard_state
        self.durability.hard_state_changed()

    # The funnel (paper, figure 2, "Rules for Servers").

    def _receive(self, message: Message) -> None:
        match message:
            case PreVote():
                return self.election.on_pre_vote(message)  # asks about a term, brings none (9.6)
            case RequestVote(transfer=False) if self.election.hears_leader:
                return None  # neither vote nor term: no disturbing a working leader (4.2.3)
            case PreVoteReply() if message.term <= self.term:
                return self._on_pre_vote_reply(message)  # an older term makes no older answer
        if message.term > self.term:
            known = isinstance(message, AppendEntries | InstallSnapshot)
            leader_id = message.sender if known else None
            self.become_follower(message.term, leader_id, f"{message.sender} has a newer term")
        if message.term < self.term:
            return self._refuse_stale(message)
        return self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        """A message of this very term."""
        match message:
            case RequestVote():
                self.election.on_request_vote(message)
            case VoteReply():
                self.election.on_vote_reply(message)
            case PreVoteReply():
                self._on_pre_vote_reply(message)
            case AppendEntries():
                self._hear_leader(message)
                self._follower.on_append_entries(message)
            case InstallSnapshot():
                self._hear_leader(message)
                self._follower.on_install_snapshot(message)
            case TimeoutNow():
                self.election.on_timeout_now(message)
            case AppendReply() | InstallSnapshotReply():
                if self.leader:
                    self.leader.on_reply(message)
            case PreVote():
                raise AssertionError("pre-votes are of no term")
            case _:
                assert_never(message)

    def _on_pre_vote_reply(self, message: PreVoteReply) -> None:
        told = (message.removed_by_term, message.removed_by)
        self._told_removed_by = max(self._told_removed_by, told)
        self.election.on_pre_vote_reply(message)

    def _refuse_stale(self, message: Message) -> None:
        """Tell the sender of an old term about ours, where it waits for an answer."""
        match message:
            case RequestVote():
                self.election.answer_vote(message, False)
            case AppendEntries() | InstallSnapshot():
                self._follower.refuse(message.sender, message.round)
            case _:
                pass

    def _hear_leader(self, message: AppendEntries | InstallSnapshot) -> None:
        leader_id = message.sender
        assert self.leader is None, "two leaders in one term"
        assert self.leader_id in (None, leader_id), "two leaders in one term"
        if self.role is not Role.FOLLOWER or self.leader_id is None:
            self.become_follower(self.term, leader_id, f"{leader_id} leads")
        self.heard_at = self.contact_at = self.now
        if message.tenure_ms > self.hard_state.tenure_ms:  # durable before this is answered
            self._set_hard_state(evolve(self.hard_state, tenure_ms=message.tenure_ms))
        self.election.leader_heard()
