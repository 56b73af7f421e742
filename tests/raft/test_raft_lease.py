"""The right to act, counted from when a heartbeat was sent (6.4.1; SPEC 5)."""

from __future__ import annotations

import math

import pytest

from nefia.raft.lease import Rounds
from nefia.raft.messages import AppendEntries, TimeoutNow
from nefia.raft.options import Options
from nefia.raft.roles import Role
from tests.raft.raft_cluster import Cluster, members


def test_a_round_is_found_by_the_newest_that_is_not_after_it() -> None:
    rounds = Rounds()
    assert rounds.begun_at(0) is None
    assert [rounds.begin(at) for at in (1.0, 2.0, 3.0)] == [1, 2, 3]
    assert rounds.begun_at(1) == 1.0
    assert rounds.begun_at(2) == 2.0
    assert rounds.begun_at(7) == 3.0


def test_what_is_over_is_forgotten() -> None:
    rounds = Rounds()
    for at in range(5):
        rounds.begin(float(at))
    assert rounds.begun_at(4) == 3.0
    assert rounds.begun_at(2) is None


def test_no_lease_before_a_majority_has_answered() -> None:
    cluster = Cluster(members("abc"))
    raft = cluster["a"]
    cluster.now = raft.election.due
    raft.tick(cluster.now)
    for _ in range(3):  # the questions and the answers of both rounds, and no heartbeat's answer
        said, cluster.queue = list(cluster.queue), type(cluster.queue)()
        for message in said:
            cluster[message.recipient].step(cluster.now, message)
        for node_id in "abc":
            cluster.perform(node_id)
        if raft.leader:
            break
    assert raft.lease_end == -math.inf
    cluster.deliver()
    assert raft.leader
    assert raft.lease_end == cluster.now + Options().leader_lease


def test_the_lease_runs_from_the_sending_not_from_the_answer() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    sent_at = cluster.now + 0.1
    cluster.now = sent_at
    leader.tick(sent_at)
    cluster.perform("a")
    cluster.now += 0.3  # both ways take a while
    cluster.deliver()
    assert leader.lease_end == sent_at + Options().leader_lease


def test_a_leader_that_no_majority_answers_steps_down() -> None:
    """6.2: "a leader steps down if an election timeout elapses without a successful round"."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("a", "bc")
    cluster.pass_time(0.45)
    assert leader.leader
    cluster.pass_time(0.1)
    assert leader.leader is None
    assert leader.lease_end == -math.inf


def test_the_lease_holds_through_a_lost_heartbeat() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.pass_time(0.3)
    heartbeats = len(cluster.said("a", AppendEntries))
    cluster.cut("a", "bc")
    cluster.pass_time(0.11)
    assert len(cluster.said("a", AppendEntries)) > heartbeats
    cluster.dropped.clear()
    cluster.pass_time(2.0)
    assert leader.leader
    assert leader.lease_end > cluster.now


def test_after_a_pause_the_leader_has_stepped_down_before_it_does_anything() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.now += 0.6
    leader.tick(cluster.now)
    assert leader.role is Role.FOLLOWER
    assert not cluster.collect("a")


def test_the_lease_ends_before_leadership_is_handed_over() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    assert leader.lease_end > cluster.now
    leader.transfer(cluster.now, "b")
    said = cluster.collect("a")
    assert any(isinstance(message, TimeoutNow) for message in said)
    assert leader.lease_end == -math.inf


def test_a_handed_over_lease_never_comes_back_in_that_term() -> None:
    """The target may win at any moment, and without the others' stickiness."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    term = leader.term
    cluster.cut("b", "ac")  # the target never hears of it
    leader.transfer(cluster.now, "b")
    for _ in range(30):
        cluster.pass_time(0.1)
        if leader.term != term or not leader.leader:
            break
        assert leader.lease_end == -math.inf
    assert leader.leader is None or leader.term > term


def test_one_node_alone_needs_nobodys_answer() -> None:
    cluster = Cluster(members("a"))
    leader = cluster.nodes["a"]
    cluster.tick("a")
    assert leader.leader
    cluster.pass_time(5.0)
    assert leader.lease_end >= cluster.now + Options().leader_lease - 0.1


@pytest.mark.parametrize("lease", [0.0, 1.0, 2.0])
def test_a_lease_that_outlives_the_heartbeat_timeout_is_refused(lease: float) -> None:
    with pytest.raises(AssertionError):
        Options(heartbeat_timeout=1.0, leader_lease=lease)
