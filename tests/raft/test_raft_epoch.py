"""A leader goes on in a much later term, the first of a new epoch (SPEC 9, `raft.epoch`)."""

from __future__ import annotations

import math

import pytest

from nefia.errors import NotLeader
from nefia.raft.epoch import EPOCH_SHIFT, epoch_of, first_of_epoch, first_of_next_epoch
from nefia.raft.roles import Role
from tests.raft.raft_cluster import Cluster, members

FIRST = 1 << EPOCH_SHIFT


def test_numbers_of_epochs() -> None:
    assert first_of_next_epoch(1, 7) == FIRST
    assert first_of_next_epoch(3, FIRST + 5) == 2 * FIRST
    assert epoch_of(FIRST - 1) == 0
    assert epoch_of(FIRST) == 1
    assert first_of_epoch(FIRST + 9) == FIRST


def test_the_others_follow_it_into_the_new_epoch() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    leader.propose(cluster.now, [b"x"])
    cluster.deliver()
    commit_index = leader.commit_index
    leader.begin_epoch(cluster.now, FIRST)
    assert leader.lease_end == -math.inf
    cluster.deliver()
    assert leader.role is Role.LEADER
    assert {cluster[name].term for name in "abc"} == {FIRST}
    assert leader.commit_index > commit_index
    cluster.pass_time(0.5)
    assert {cluster[name].leader_id for name in "abc"} == {"a"}


def test_without_a_majority_it_does_not_lead() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("a", "bc")
    leader.begin_epoch(cluster.now, FIRST)
    cluster.pass_time(0.3)
    assert leader.leader is None


def test_alone_it_goes_on() -> None:
    cluster = Cluster(members("a"))
    leader = cluster.elect("a")
    leader.begin_epoch(cluster.now, FIRST)
    cluster.deliver()
    assert leader.leader is not None
    assert leader.term == FIRST


def test_only_a_leader_may() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    with pytest.raises(NotLeader):
        cluster["b"].begin_epoch(cluster.now, FIRST)
