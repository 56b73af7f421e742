"""Elections; each test cites the sentence that it proves."""

from __future__ import annotations

from random import Random

import pytest
from attrs import evolve

from nefia.raft.core import Raft
from nefia.raft.entries import Entry, HardState
from nefia.raft.messages import (
    AppendEntries,
    AppendReply,
    Message,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from nefia.raft.options import RANK_JITTER_SECONDS, RANK_STAGGER_SECONDS, Options
from nefia.raft.roles import Role
from tests.raft.raft_cluster import Cluster, log_of, members


def request(
    sender: str, recipient: str, term: int, last: tuple[int, int] = (1, 1), transfer: bool = False
) -> RequestVote:
    return RequestVote(
        sender=sender,
        recipient=recipient,
        term=term,
        last_log_index=last[0],
        last_log_term=last[1],
        transfer=transfer,
    )


def pre_vote(sender: str, recipient: str, term: int, last: tuple[int, int] = (1, 1)) -> PreVote:
    return PreVote(
        sender=sender,
        recipient=recipient,
        term=term,
        round=7,
        last_log_index=last[0],
        last_log_term=last[1],
    )


def answer(cluster: Cluster, message: Message) -> list[Message]:
    """What the recipient says to it."""
    cluster[message.recipient].step(cluster.now, message)
    return cluster.collect(message.recipient)


def granted(cluster: Cluster, message: RequestVote) -> bool:
    replies = [m for m in answer(cluster, message) if isinstance(m, VoteReply)]
    return bool(replies) and replies[0].granted


# Figure 2, RequestVote.


def test_a_request_of_an_older_term_is_refused_with_the_newer_one() -> None:
    """Figure 2: "Reply false if term < currentTerm"."""
    cluster = Cluster(members("abc"), terms={"a": 5})
    said = answer(cluster, request("b", "a", term=4))
    assert said == [VoteReply(sender="a", recipient="b", term=5, granted=False)]


def test_one_vote_a_term_first_come_first_served() -> None:
    """5.2: "Each server will vote for at most one candidate in a given term"."""
    cluster = Cluster(members("abc"))
    assert granted(cluster, request("b", "a", term=2))
    assert not granted(cluster, request("c", "a", term=2))
    assert granted(cluster, request("b", "a", term=2)), "a lost answer is given again"
    assert granted(cluster, request("c", "a", term=3))


def test_a_vote_survives_stepping_down_in_the_same_term() -> None:
    cluster = Cluster(members("abc"))
    candidate = cluster["a"]
    cluster.now = candidate.election.due
    cluster.cut("a", "bc")
    candidate.become_pre_candidate("test")
    candidate.become_candidate("test")
    cluster.deliver()
    term = candidate.term
    candidate.step(
        cluster.now,
        AppendEntries(
            sender="b",
            recipient="a",
            term=term,
            prev_log_index=1,
            prev_log_term=1,
            entries=(),
            commit_index=0,
            round=1,
        ),
    )
    assert candidate.role is Role.FOLLOWER
    assert (candidate.term, candidate.hard_state.vote) == (term, "a")
    assert not granted(cluster, request("c", "a", term=term, transfer=True))


@pytest.mark.parametrize(
    ("last", "expected"),
    [((3, 2), True), ((2, 2), False), ((9, 1), False), ((1, 3), True), ((4, 2), True)],
)
def test_votes_go_to_logs_that_are_as_up_to_date(last: tuple[int, int], expected: bool) -> None:
    """5.4.1: "the voter denies its vote if its own log is more up-to-date"."""
    cluster = Cluster(members("abc"), logs={"a": (2, 2)})
    assert granted(cluster, request("b", "a", term=3, last=last)) is expected


def test_a_vote_leaves_only_when_it_is_durable() -> None:
    """Figure 2: "Updated on stable storage before responding to RPCs"."""
    cluster = Cluster(members("abc"))
    cluster.slow_disks.add("a")
    assert answer(cluster, request("b", "a", term=2)) == []
    assert cluster.writes["a"].hard_state == HardState(2, "b")
    cluster.finish_write("a")
    assert cluster.said("a", VoteReply)[-1].granted


def test_a_candidate_asks_and_counts_itself_only_when_that_is_durable() -> None:
    cluster = Cluster(members("a"))
    cluster.slow_disks.add("a")
    cluster.tick("a")
    assert cluster["a"].role is Role.CANDIDATE
    cluster.finish_write("a")
    assert cluster["a"].leader

    cluster = Cluster(members("abc"))
    cluster.slow_disks.add("a")
    cluster.now = cluster["a"].election.due
    cluster.tick("a")
    assert cluster["a"].role is Role.CANDIDATE
    assert not cluster.said("a", RequestVote)
    cluster.finish_write("a")
    assert len(cluster.said("a", RequestVote)) == 2


def test_votes_are_counted_by_voter_and_of_this_term_only() -> None:
    cluster = Cluster(members("abcde", learners="f"))
    candidate = cluster["a"]
    cluster.now = candidate.election.due
    candidate.become_pre_candidate("test")
    candidate.become_candidate("test")
    cluster.collect("a")
    reply = VoteReply(sender="b", recipient="a", term=candidate.term, granted=True)
    for message in (
        reply,
        reply,
        evolve(reply, sender="c", term=candidate.term - 1),
        evolve(reply, sender="f"),
        evolve(reply, sender="z"),
        PreVoteReply(sender="d", recipient="a", term=candidate.term, round=7, granted=True),
    ):
        candidate.step(cluster.now, message)
        assert candidate.role is Role.CANDIDATE
    candidate.step(cluster.now, evolve(reply, sender="e"))
    assert candidate.leader


# Pre-vote (9.6) and stickiness (4.2.3).


def test_a_pre_vote_changes_nothing_in_whoever_is_asked() -> None:
    """9.6: "a candidate only increments its term if it first learns that it could win"."""
    cluster = Cluster(members("abc"))
    voter = cluster["a"]
    before = (voter.hard_state, voter.role, voter.leader_id, voter.commit_index)
    said = answer(cluster, pre_vote("b", "a", term=9))
    assert isinstance(said[0], PreVoteReply)
    assert said[0].granted
    assert (voter.hard_state, voter.role, voter.leader_id, voter.commit_index) == before
    assert "a" not in cluster.writes


def test_an_isolated_node_raises_no_term_and_disturbs_nobody_when_it_returns() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    term = leader.term
    cluster.cut("c", "ab")
    cluster.pass_time(5.0)
    assert cluster["c"].role is Role.PRE_CANDIDATE
    assert cluster["c"].term == term
    cluster.dropped.clear()
    cluster.pass_time(2.0)
    assert cluster.leaders() == ["a"]
    assert leader.term == term


def test_only_answers_to_this_round_count() -> None:
    cluster = Cluster(members("abc"))
    candidate = cluster["a"]
    cluster.now = candidate.election.due
    candidate.tick(cluster.now)
    question = next(m for m in cluster.collect("a") if isinstance(m, PreVote))
    stale = PreVoteReply(sender="b", recipient="a", term=1, round=question.round + 1, granted=True)
    candidate.step(cluster.now, stale)
    assert candidate.term == 1
    candidate.step(cluster.now, evolve(stale, round=question.round))
    assert (candidate.role, candidate.term) == (Role.CANDIDATE, 2)


def test_who_hears_a_leader_neither_votes_nor_takes_over_the_term() -> None:
    """4.2.3: "it does not update its term or grant its vote"."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    follower = cluster["b"]
    before = follower.hard_state
    assert answer(cluster, request("c", "b", term=leader.term + 5, last=(9, 9))) == []
    assert follower.hard_state == before
    said = answer(cluster, pre_vote("c", "b", term=leader.term, last=(9, 9)))
    assert isinstance(said[0], PreVoteReply)
    assert not said[0].granted


def test_stickiness_ends_with_the_heartbeat_timeout() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.now += 1.01
    assert granted(cluster, request("c", "b", term=leader.term + 1, last=(9, 9)))


def test_the_leader_itself_is_not_disturbed() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    assert answer(cluster, request("c", "a", term=leader.term + 5, last=(9, 9))) == []
    assert leader.leader


def test_who_was_stranded_in_a_higher_term_costs_one_election() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    stranded = cluster["c"]
    cluster.cut("c", "ab")
    cluster.now += 0.01
    stranded.become_pre_candidate("test")
    stranded.become_candidate("test")
    cluster.deliver()
    cluster.dropped.clear()
    cluster.pass_time(4.0)
    terms = {raft.term for raft in cluster.nodes.values()}
    assert len(cluster.leaders()) == 1
    assert terms == {stranded.term}
    assert stranded.term <= 5


def test_a_late_vote_is_not_taken_for_a_pre_vote() -> None:
    cluster = Cluster(members("abc"))
    candidate = cluster["a"]
    cluster.now = candidate.election.due
    candidate.become_pre_candidate("test")
    candidate.become_candidate("test")
    candidate.become_pre_candidate("its election came to nothing")
    cluster.collect("a")
    candidate.step(
        cluster.now, VoteReply(sender="b", recipient="a", term=candidate.term, granted=True)
    )
    assert candidate.role is Role.PRE_CANDIDATE


# TimeoutNow (3.10).


def test_timeout_now_begins_an_election_at_once_that_waives_stickiness() -> None:
    """3.10: the target "starts a new election ... without waiting"; 4.2.3 has the flag."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    now = cluster.now
    leader.transfer(now, "c")
    cluster.deliver()
    assert cluster.leaders() == ["c"]
    assert cluster.now == now
    assert all(vote.transfer for vote in cluster.said("c", RequestVote))
    assert not cluster.said("c", PreVote)


def test_timeout_now_counts_only_from_the_present_leader() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    target = cluster["b"]
    for message in (
        TimeoutNow(sender="c", recipient="b", term=leader.term),
        TimeoutNow(sender="a", recipient="b", term=leader.term - 1),
    ):
        assert answer(cluster, message) == []
        assert target.role is Role.FOLLOWER


def test_who_lags_is_brought_up_to_date_before_it_is_told() -> None:
    """3.10: the leader "fully updates the target server's log to match its own"."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("c", "ab")
    leader.propose(cluster.now, [b"one", b"two"])
    cluster.deliver()
    leader.transfer(cluster.now, "c")
    cluster.deliver()
    assert not cluster.said("a", TimeoutNow)
    cluster.dropped.clear()
    cluster.pass_time(0.6)
    assert cluster.leaders() == ["c"]
    assert cluster["c"].log.last_index >= 4


# The crash fast path (SPEC 5).


def test_survivors_of_a_crash_ask_in_the_order_of_their_ranks() -> None:
    cluster = Cluster(members("abcde"))
    cluster.elect("c")
    for node_id in "abde":
        cluster[node_id].peer_lost(cluster.now, "c")
    for rank, node_id in enumerate("abde"):
        wait = cluster[node_id].election.due - cluster.now
        assert rank * RANK_STAGGER_SECONDS <= wait
        assert wait <= rank * RANK_STAGGER_SECONDS + RANK_JITTER_SECONDS


def test_a_crash_costs_far_less_than_the_timeout() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    cluster.cut("a", "bc")
    for node_id in "bc":
        cluster[node_id].peer_lost(cluster.now, "a")
    began = cluster.now
    while not set(cluster.leaders()) & {"b", "c"}:
        cluster.pass_time(0.02)
        assert cluster.now < began + 0.3


def test_a_split_vote_costs_far_less_than_the_timeout() -> None:
    """5.2: "each candidate will time out and start a new election"; but who was refused and hears
    nothing from the others need not wait for them as long as if nobody had answered."""
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    cluster.cut("a", "bc")
    cluster.now += 1.2
    for node_id in "bc":
        cluster[node_id].become_candidate("all at once")
    cluster.deliver()
    assert not set(cluster.leaders()) - {"a"}, "the vote is split"
    began = cluster.now
    while not set(cluster.leaders()) - {"a"}:
        cluster.pass_time(0.02)
        assert cluster.now < began + 0.5


def test_who_has_not_lost_the_leader_does_not_help() -> None:
    """SPEC 5: "Others grant only if they too have lost the leader"."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster["b"].peer_lost(cluster.now, "a")
    cluster.now = cluster["b"].election.due
    cluster.tick("b")
    assert not any(reply.granted for reply in cluster.said("c", PreVoteReply)[-1:])
    assert cluster.leaders() == ["a"]
    assert cluster["b"].term == leader.term


def test_the_end_of_a_follower_is_nobodys_election() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    due = cluster["b"].election.due
    cluster["b"].peer_lost(cluster.now, "c")
    assert cluster["b"].election.due == due


def test_who_granted_a_pre_vote_leaves_the_field_to_that_candidate() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    for node_id in "bc":
        cluster[node_id].peer_lost(cluster.now, "a")
    last = (cluster["b"].log.last_index, cluster["b"].log.last_term)
    answer(cluster, pre_vote("b", "c", term=cluster["b"].term, last=last))
    assert cluster["c"].election.due >= cluster.now + 0.1


def test_a_restarted_node_may_ask_once_it_has_tried_its_peers() -> None:
    cluster = Cluster(members("abc"))
    raft = cluster["b"]
    raft.peers_tried(cluster.now)
    assert raft.election.due <= cluster.now + RANK_STAGGER_SECONDS + RANK_JITTER_SECONDS
    cluster.elect("a")
    due = raft.election.due
    raft.peers_tried(cluster.now)
    assert raft.election.due == due


# Disks.


def test_a_leader_whose_write_hangs_hands_over() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.slow_disks.add("a")
    leader.propose(cluster.now, [b"one"])
    cluster.deliver()
    cluster.pass_time(1.1)
    assert leader.leader is None
    assert cluster.said("a", TimeoutNow)
    cluster.pass_time(0.2)
    assert len(cluster.leaders()) == 1
    assert cluster.commands(cluster.leaders()[0]) == [b"one"]


def test_a_leader_whose_write_fails_hands_over_and_says_nothing_more() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.slow_disks.add("a")
    leader.propose(cluster.now, [b"one"])
    cluster.perform("a")
    leader.write_failed(cluster.now)
    assert leader.halted
    cluster.deliver()
    assert cluster.said("a", TimeoutNow)
    said = len([m for m in cluster.sent if m.sender == "a"])
    cluster.pass_time(3.0)
    assert len([m for m in cluster.sent if m.sender == "a"]) == said
    assert len(set(cluster.leaders()) & {"b", "c"}) == 1


def test_who_cannot_write_does_not_campaign() -> None:
    cluster = Cluster(members("abc"))
    cluster.slow_disks.add("b")
    cluster.elect("a")
    cluster.cut("a", "bc")
    cluster.pass_time(4.0)
    assert not cluster.said("b", PreVote)


def test_who_can_store_nothing_does_not_keep_a_leader_in_power() -> None:
    """Found by the daemon simulator (seed 3 of 40 s): a leader that needs it for its majority could
    commit nothing, and would not step down for the others, who could."""
    raft = Raft(
        node_id="a",
        options=Options(),
        random=Random(1),
        now=0.0,
        hard_state=HardState(1),
        log=log_of(members("abc"), 1),
    )
    entry = Entry(3, 1, b"x")
    raft.step(0.0, heartbeat(2, entries=(entry,)))
    assert raft.take().write is not None  # and it never comes back
    raft.step(0.9, heartbeat(2))
    assert [type(message) for message in raft.take().send] == [AppendReply]
    raft.step(1.1, heartbeat(2))
    assert not raft.take().send


def heartbeat(prev: int, entries: tuple[Entry, ...] = ()) -> AppendEntries:
    return AppendEntries(
        sender="b",
        recipient="a",
        term=1,
        prev_log_index=prev,
        prev_log_term=1,
        entries=entries,
        commit_index=0,
        round=1,
    )
