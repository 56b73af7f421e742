"""An identity that comes back with an empty log (SPEC 2, "instance id"; DESIGN, mistake 12)."""

from __future__ import annotations

from random import Random

from attrs import evolve

from nefia.raft.configuration import Configuration, Member
from nefia.raft.core import Raft
from nefia.raft.entries import Entry, HardState
from nefia.raft.log import Log
from nefia.raft.messages import AppendEntries, AppendReply, PreVoteReply
from nefia.raft.options import Options
from tests.raft.raft_cluster import Cluster, members


def test_a_member_that_comes_back_is_not_believed_to_have_what_it_had() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    leader.propose(cluster.now, [b"one", b"two"])
    cluster.deliver()
    assert leader.leader
    before = leader.leader.progress["c"].match_index
    cluster.cut("ab", "c")  # it is shut down, removed, wiped and added again
    full = leader.log.configuration
    leader.change(cluster.now, full.without("c"))
    cluster.deliver()
    newcomer = Member("c", "c:9700", voter=False, promote=True, instance="c.1")
    leader.change(cluster.now, leader.log.configuration.with_member(newcomer))
    cluster.deliver()
    assert before > 0
    assert leader.leader.progress["c"].match_index == 0


def test_a_wiped_node_is_not_what_an_old_configuration_calls_by_its_name() -> None:
    """While it reads the log from the beginning, it passes configurations of its former self."""
    alone = Configuration([Member("a", "a:9700", voter=True, instance="a.0")])
    wiped = Raft(node_id="a", instance="a.1", options=Options(), random=Random(1), now=0.0)
    wiped.step(
        0.0,
        AppendEntries(
            sender="b",
            recipient="a",
            term=5,
            prev_log_index=0,
            prev_log_term=0,
            entries=(Entry(1, 1, alone),),
            commit_index=1,
            round=1,
        ),
    )
    write = wiped.take().write
    assert write
    wiped.persisted(0.0, write.sequence)
    wiped.tick(100.0)
    assert not wiped.leader
    assert wiped.term == 5


def test_refusals_of_what_was_acknowledged_raise_no_storm() -> None:
    cluster = Cluster(members("ab"))
    leader = cluster.elect("a")
    assert leader.leader
    acknowledged = leader.leader.progress["b"].match_index
    assert acknowledged > 0
    refusal = AppendReply(
        sender="b",
        recipient="a",
        term=leader.term,
        round=1,
        success=False,
        prev_log_index=acknowledged,
    )
    cluster.perform("a")
    leader.unreachable(cluster.now, "b")
    leader.propose(cluster.now, [b"one"])
    cluster.collect("a")
    for _ in range(5):
        leader.step(cluster.now, evolve(refusal))
        assert not [m for m in cluster.collect("a") if isinstance(m, AppendEntries)]


def test_an_old_removal_does_not_count_against_who_was_added_again_and_compacted_its_log() -> None:
    """Found by the simulator, seed 100173 of 120 s."""
    before, again = members("b"), members("ab")
    entries = [Entry(1, 1, before), Entry(2, 3, again), Entry(3, 3), Entry(4, 3)]
    log = Log(last_index=0)
    log.append(entries)
    log.compact(3)
    raft = Raft(
        node_id="a",
        options=Options(),
        random=Random(1),
        now=0.0,
        hard_state=HardState(3),
        log=log,
        applied_index=3,
    )
    told = PreVoteReply(
        sender="b", recipient="a", term=3, round=1, granted=False, removed_by=1, removed_by_term=2
    )
    raft.step(0.0, told)
    assert not raft.removed
    raft.step(0.0, evolve(told, removed_by=9, removed_by_term=3))
    assert raft.removed
