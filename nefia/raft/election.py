"""Elections, from the voter's side and the candidate's (paper 5.2, 5.4.1; pre-vote 9.6).

Two rules protect a working leader: a node that hears one grants nothing (stickiness, 4.2.3), and
nobody raises its term before a majority has said, by pre-votes, that it could win.
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from nefia.raft.messages import PreVote, PreVoteReply, RequestVote, TimeoutNow, VoteReply
from nefia.raft.options import (
    ELECTION_SPREAD,
    GRANT_HOLD_SECONDS,
    QUICK_RETRIES,
    RANK_JITTER_SECONDS,
    RANK_STAGGER_SECONDS,
    RETRY_SECONDS,
)
from nefia.raft.quorum import VoteResult, vote_result
from nefia.raft.roles import Role

if TYPE_CHECKING:
    from nefia.raft.core import Raft


@define
class _Campaign:
    """One question to the voters. `votes`: voter to granted, each voter once."""

    question: PreVote | RequestVote  # as sent, but for the recipient
    votes: dict[str, bool] = field(factory=dict)


class Election:
    """One node's part in elections, and its election timer. Owned by `Raft`, which alone sets
    roles and terms.

    `due`: when, on this node's clock, it campaigns unless it hears a leader before.
    `leader_lost`: the process of the leader that was heard last has ended, as far as this node can
    tell (SPEC 5).
    `clear_at`: when the tenures of earlier leaders are over, as far as the votes so far say.
    """

    def __init__(self, raft: Raft, random: Random) -> None:
        self.due = raft.now
        self.leader_lost = False
        self.clear_at = -math.inf
        self._raft = raft
        self._random = random
        self._campaign: _Campaign | None = None
        self._lost_rounds = 0
        if raft.log.configuration.voters != {raft.node_id}:  # alone, it need not wait for anyone
            self.await_leader()

    # The timer.

    def await_leader(self) -> None:
        """Leave the field to a leader for a whole timeout."""
        spread = self._random.uniform(0, ELECTION_SPREAD)
        options = self._raft.options
        patience = options.heartbeat_timeout * (1 + spread) + options.witness_delay
        self.due = self._raft.now + patience

    def try_again_soon(self) -> None:
        """After a lost round; in the end no faster than others may need to be heard."""
        self._campaign = None
        self._lost_rounds += 1
        if self._lost_rounds > QUICK_RETRIES:
            self.await_leader()
        else:
            self.due = self._raft.now + self._random.uniform(*RETRY_SECONDS)

    def _hurry(self) -> None:
        """Refused by one and unheard by others, who may be gone: the vote is split between those
        that are there. Their next rounds begin at different times; votes of this one still count.
        """
        if self._lost_rounds < QUICK_RETRIES:
            self._lost_rounds += 1
            self.due = min(self.due, self._raft.now + self._random.uniform(*RETRY_SECONDS))

    def campaign_by_rank(self) -> None:
        """The crash fast path: survivors ask one after the other, so as not to split the vote."""
        others = sorted(self._voters - {self._raft.leader_id})
        node_id = self._raft.node_id
        rank = others.index(node_id) if node_id in others else len(others)
        stagger = rank * RANK_STAGGER_SECONDS + self._random.uniform(0, RANK_JITTER_SECONDS)
        stagger += self._raft.options.witness_delay
        self.due = min(self.due, self._raft.now + stagger)

    def leader_heard(self) -> None:
        self.leader_lost = False
        self._lost_rounds = 0
        self.await_leader()

    def over(self) -> None:
        """This node follows or leads now."""
        self._campaign = None

    # Who may vote, and for whom.

    @property
    def _voters(self) -> frozenset[str]:
        return self._raft.log.configuration.voters

    @property
    def may_campaign(self) -> bool:
        """A voter, or one that the newest configuration drops before that is committed (4.2.2)."""
        raft = self._raft
        if raft.removed or raft.write_hangs:
            return False
        index, configuration = raft.log.configuration_index, raft.log.configuration
        if index > raft.commit_index:
            before = raft.log.configuration_at(index - 1)[1]
            return raft.votes_in(configuration) or raft.votes_in(before)
        return raft.votes_in(configuration)

    @property
    def hears_leader(self) -> bool:
        """Or heard one lately: a newer term alone, whoever brought it, ends no leader's lease."""
        raft = self._raft
        heard_lately = raft.now - raft.heard_at < raft.options.heartbeat_timeout
        return raft.leader is not None or (heard_lately and not self.leader_lost)

    @property
    def tally(self) -> tuple[str, dict[str, bool]] | None:
        """What is asked now, for people, and who has granted it or not; None while nothing is."""
        campaign = self._campaign
        if campaign is None:
            return None
        kind = "pre-vote" if isinstance(campaign.question, PreVote) else "vote"
        return kind, dict(campaign.votes)

    @property
    def reason(self) -> str:
        """Why this node campaigns, for people."""
        raft = self._raft
        if raft.leader_id is None:
            return "no leader is known"
        if self.leader_lost:
            return f"the process of {raft.leader_id} has ended"
        return f"nothing heard from {raft.leader_id} for {raft.now - raft.heard_at:.2f} s"

    # The candidate's side.

    def ask_pre_votes(self) -> None:
        raft = self._raft
        self._ask(
            PreVote(
                sender=raft.node_id,
                recipient="",
                term=raft.term,
                round=self._random.getrandbits(53),  # tells rounds apart even across restarts
                last_log_index=raft.log.last_index,
                last_log_term=raft.log.last_term,
            )
        )
        self.count_vote(raft.node_id, True)

    def ask_votes(self, *, transfer: bool) -> None:
        """Its own vote counts once it is durable: `Raft.persisted`."""
        raft = self._raft
        self._ask(
            RequestVote(
                sender=raft.node_id,
                recipient="",
                term=raft.term,
                last_log_index=raft.log.last_index,
                last_log_term=raft.log.last_term,
                transfer=transfer,
            )
        )

    def _ask(self, question: PreVote | RequestVote) -> None:
        self._campaign = _Campaign(question)
        self.clear_at = -math.inf
        spread = self._random.uniform(0, ELECTION_SPREAD)
        self.due = self._raft.now + self._raft.options.election_timeout * (1 + spread)
        for voter in sorted(self._voters - {self._raft.node_id}):
            self._raft.send(evolve(question, recipient=voter))

    def ask_again(self, voter: str) -> None:
        """A way to `voter` has opened; it may not have heard the question."""
        if self._campaign and voter in self._voters - self._campaign.votes.keys():
            self._raft.send(evolve(self._campaign.question, recipient=voter))

    def count_vote(self, voter: str, granted: bool) -> None:
        if self._campaign is None:
            return
        votes = self._campaign.votes
        votes.setdefault(voter, granted)
        match vote_result(self._voters, votes):
            case VoteResult.WON if isinstance(self._campaign.question, PreVote):
                self._raft.become_candidate("won the pre-vote")
            case VoteResult.WON:
                self._raft.become_leader()
            case VoteResult.LOST:
                self.try_again_soon()
            case VoteResult.PENDING if not granted:
                self._hurry()
            case VoteResult.PENDING:
                pass

    def on_pre_vote_reply(self, message: PreVoteReply) -> None:
        campaign = self._campaign
        if campaign is None or not isinstance(campaign.question, PreVote):
            return
        if message.round == campaign.question.round:
            self.count_vote(message.sender, message.granted)

    def on_vote_reply(self, message: VoteReply) -> None:
        if self._raft.role is Role.CANDIDATE:  # a late answer is no pre-vote
            self._count_real_vote(message.sender, message.granted, message.tenure_left_ms)

    def count_own_vote(self) -> None:
        """It is durable: it counts like everyone else's."""
        self._count_real_vote(self._raft.node_id, True, self._raft.tenure_left_ms)

    def _count_real_vote(self, voter: str, granted: bool, tenure_left_ms: int) -> None:
        self.clear_at = max(self.clear_at, self._raft.now + tenure_left_ms / 1000)
        self.count_vote(voter, granted)

    def on_timeout_now(self, message: TimeoutNow) -> None:
        if message.sender == self._raft.leader_id and self.may_campaign:
            self._raft.become_candidate(f"{message.sender} hands over", transfer=True)

    # The voter's side. Whoever asks is answered, member or not: it may know a newer configuration
    # than this node does (4.1).

    def on_pre_vote(self, message: PreVote) -> None:
        """Would this node vote for the sender? Nothing changes but its own patience (9.6)."""
        raft = self._raft
        granted = (
            not self.hears_leader
            and message.term >= raft.term
            and raft.log.is_up_to_date(message.last_log_index, message.last_log_term)
        )
        committed_index, committed = raft.log.configuration_at(raft.commit_index)
        removed = not granted and committed_index > 0 and committed.get(message.sender) is None
        if granted:
            hold = raft.now + self._random.uniform(*GRANT_HOLD_SECONDS)
            self.due = max(self.due, hold)
        raft.send(
            PreVoteReply(
                sender=raft.node_id,
                recipient=message.sender,
                term=raft.term,
                round=message.round,
                granted=granted,
                removed_by=committed_index if removed else 0,
                removed_by_term=raft.log.term_at_or_before(committed_index) if removed else 0,
            )
        )

    def on_request_vote(self, message: RequestVote) -> None:
        raft = self._raft
        granted = raft.hard_state.vote in (None, message.sender) and raft.log.is_up_to_date(
            message.last_log_index, message.last_log_term
        )
        if granted:
            raft.vote_for(message.sender)
            self.await_leader()
        self.answer_vote(message, granted)

    def answer_vote(self, message: RequestVote, granted: bool) -> None:
        raft = self._raft
        raft.send(
            VoteReply(
                sender=raft.node_id,
                recipient=message.sender,
                term=raft.term,
                granted=granted,
                tenure_left_ms=raft.tenure_left_ms,
            )
        )
