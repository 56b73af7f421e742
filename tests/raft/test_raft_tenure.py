"""How long a new leader has to wait before it may run services, by what the votes say (SPEC 9)."""

from __future__ import annotations

import pytest
from attrs import evolve

from nefia.raft.core import Raft
from nefia.raft.entries import HardState
from nefia.raft.messages import (
    AppendEntries,
    AppendReply,
    PreVote,
    PreVoteReply,
    RequestVote,
    VoteReply,
)
from nefia.raft.options import Options
from nefia.raft.roles import Role
from nefia.raft.tenure import CLOCK_MARGIN, left_ms
from tests.raft.raft_cluster import Cluster, members

TENURE = Options().leader_lease + Options().stop_budget
LONGEST = TENURE * (1 + CLOCK_MARGIN)
MILLISECOND = 0.001
"""What is left is rounded up to whole milliseconds."""


def test_what_is_left_never_goes_below_nothing() -> None:
    assert left_ms(1000, 0.0) == 1021
    assert left_ms(1000, 0.5) == 521
    assert left_ms(1000, 1.0205) == 1
    assert left_ms(1000, 2.0) == 0
    assert left_ms(0, 0.0) == 0


@pytest.mark.parametrize("old", [0.99, 1.01])
@pytest.mark.parametrize("voter", [0.99, 1.01])
@pytest.mark.parametrize("new", [0.99, 1.01])
@pytest.mark.parametrize("quiet_seconds", [0.0, 0.3, 0.7])
def test_the_margin_covers_clocks_of_different_rates(
    old: float, voter: float, new: float, quiet_seconds: float
) -> None:
    """All in real seconds: what the old leader's tenure takes by its clock is over by then."""
    ends = TENURE / old
    waited = left_ms(round(TENURE * 1000), quiet_seconds * voter) / 1000 / new
    assert quiet_seconds + waited >= ends


def test_a_new_leader_waits_for_the_tenure_of_the_last() -> None:
    """Here there is no time in between, since leadership was handed over."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.pass_time(0.3)
    assert cluster["b"].hard_state.tenure_ms == 1000
    heard_at = cluster["b"].contact_at
    leader.transfer(cluster.now, "b")
    cluster.deliver()
    new = cluster["b"].leader
    assert new
    assert heard_at + LONGEST <= new.clear_at <= cluster.now + LONGEST + MILLISECOND


def campaigning(cluster: Cluster, node_id: str, *supporters: str) -> Raft:
    """A candidate whom nobody but itself has voted for yet."""
    raft = cluster[node_id]
    cluster.cut(node_id, cluster.nodes)
    cluster.now = raft.election.due
    cluster.tick(node_id)
    question = cluster.said(node_id, PreVote)[-1]
    for supporter in supporters:
        answer = PreVoteReply(
            sender=supporter,
            recipient=node_id,
            term=raft.term,
            round=question.round,
            granted=True,
        )
        raft.step(cluster.now, answer)
    cluster.perform(node_id)
    assert raft.role is Role.CANDIDATE
    return raft


def test_the_latest_of_what_the_votes_say_decides() -> None:
    cluster = Cluster(members("abcde"))
    raft = campaigning(cluster, "a", "b", "c")
    for voter, left in (("b", 700), ("c", 300)):
        raft.step(
            cluster.now,
            VoteReply(
                sender=voter, recipient="a", term=raft.term, granted=True, tenure_left_ms=left
            ),
        )
    assert raft.leader
    assert raft.leader.clear_at == cluster.now + 0.7


def test_its_own_vote_counts_too() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("b")
    cluster["a"].contact_at = cluster["a"].election.due - 0.1
    raft = campaigning(cluster, "a", "c")
    raft.step(
        cluster.now,
        VoteReply(sender="c", recipient="a", term=raft.term, granted=True, tenure_left_ms=0),
    )
    assert raft.leader
    assert raft.leader.clear_at == pytest.approx(cluster.now + LONGEST - 0.1, abs=MILLISECOND)


def test_a_voter_that_was_restarted_counts_from_its_start() -> None:
    raft = Raft(
        node_id="a",
        instance="a.0",
        options=Options(),
        random=Cluster(members("a"))["a"].election._random,
        now=50.0,
        hard_state=HardState(3, None, 1000),
        log=Cluster(members("ab"))["a"].log,
    )
    raft.step(
        50.4,
        RequestVote(sender="b", recipient="a", term=4, last_log_index=9, last_log_term=3),
    )
    write = raft.take().write
    assert write
    assert write.hard_state == HardState(4, "b", 1000)
    raft.persisted(50.4, write.sequence)
    (reply,) = raft.take().send
    assert reply == VoteReply(
        sender="a", recipient="b", term=4, granted=True, tenure_left_ms=left_ms(1000, 50.4 - 50.0)
    )


def test_who_led_counts_from_when_it_ceased_to() -> None:
    cluster = Cluster(members("abc"))
    old = cluster.elect("a")
    cluster.cut("a", "bc")
    cluster.pass_time(0.6)
    assert old.leader is None
    assert old.contact_at == pytest.approx(cluster.now, abs=0.2)
    assert old.contact_at > old.heard_at


def test_a_longer_tenure_is_durable_before_it_is_answered() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    follower = cluster["b"]
    (heartbeat,) = [m for m in cluster.said("a", AppendEntries) if m.recipient == "b"][-1:]
    cluster.slow_disks = {"b"}
    follower.step(cluster.now, evolve(heartbeat, entries=(), tenure_ms=5000))
    assert not [m for m in cluster.collect("b") if isinstance(m, AppendReply)]
    assert cluster.writes["b"].hard_state == evolve(follower.hard_state, tenure_ms=5000)
    cluster.finish_write("b")
    assert [m for m in cluster.queue if isinstance(m, AppendReply)]


def test_a_shorter_tenure_changes_nothing() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    (heartbeat,) = [m for m in cluster.said("a", AppendEntries) if m.recipient == "b"][-1:]
    cluster["b"].step(cluster.now, evolve(heartbeat, entries=(), tenure_ms=1))
    assert cluster["b"].hard_state.tenure_ms == 1000
    assert cluster.perform("b").write is None


def test_a_leader_counts_its_own_tenure_too() -> None:
    """Should it vote after a restart, the others' tenures are not all that there was."""
    cluster = Cluster(members("abc"), options=Options(heartbeat_timeout=3.0, election_timeout=3.0))
    assert cluster.elect("a").hard_state.tenure_ms == 3000
