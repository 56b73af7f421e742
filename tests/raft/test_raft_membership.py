"""Changes of the members (dissertation 4)."""

from __future__ import annotations

from random import Random

import pytest
from attrs import evolve

from nefia.errors import ChangeInProgress, NotMember
from nefia.raft.configuration import Configuration, Member, is_single_server_change
from nefia.raft.core import Raft
from nefia.raft.effects import ConfigurationChanged, Removed
from nefia.raft.entries import Entry
from nefia.raft.messages import AppendEntries, PreVote, RequestVote, TimeoutNow, VoteReply
from tests.raft.raft_cluster import Cluster, members


def learner(node_id: str, *, promote: bool = True) -> Member:
    return Member(node_id, f"{node_id}:9700", voter=False, promote=promote, instance=f"{node_id}.0")


def test_a_configuration_is_sorted_and_has_no_twins() -> None:
    one = Configuration([learner("b"), learner("a")])
    assert [member.id for member in one.members] == ["a", "b"]
    with pytest.raises(AssertionError):
        Configuration([learner("a"), learner("a")])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (members("abc"), members("abcd"), True),
        (members("abc"), members("ab"), True),
        (members("abc"), members("abc", "de"), True),
        (members("abc"), members("abd"), False),
        (members("abc"), members("abcde"), False),
        (members("abc", "d"), members("abcd"), True),
    ],
)
def test_at_most_one_voter_comes_or_goes(
    old: Configuration, new: Configuration, expected: bool
) -> None:
    """4.1: "only one server can be added or removed from the cluster at a time"."""
    assert is_single_server_change(old, new) is expected


def test_one_change_at_a_time() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    leader.change(cluster.now, members("ab"))
    with pytest.raises(ChangeInProgress):
        leader.change(cluster.now, members("abc"))
    cluster.deliver()
    leader.change(cluster.now, members("abc"))


def test_no_change_before_an_entry_of_the_own_term_is_committed() -> None:
    """The correction of 2015 to 4.1: otherwise majorities might not overlap."""
    cluster = Cluster(members("abc"))
    old = cluster.elect("a")
    cluster.pass_time(0.3)
    old.transfer(cluster.now, "b")
    for _ in range(20):
        for node_id in "abc":
            cluster.perform(node_id)
        if cluster["b"].leader or not cluster.queue:
            break
        message = cluster.queue.popleft()
        cluster[message.recipient].step(cluster.now, message)
    successor = cluster["b"]
    assert successor.leader
    assert not successor.leader.changing
    assert successor.commit_index < successor.leader.term_start
    with pytest.raises(ChangeInProgress):
        successor.change(cluster.now, members("ab"))
    cluster.deliver()
    successor.change(cluster.now, members("ab"))


def test_a_configuration_is_in_force_once_it_is_in_the_log() -> None:
    """4.1: "servers always use the latest configuration in their log"."""
    cluster = Cluster(members("abcd"))
    leader = cluster.elect("a")
    cluster.cut("a", "bcd")
    leader.change(cluster.now, members("abc"))
    assert leader.log.configuration == members("abc")
    assert leader.leader
    assert leader.leader.changing


def test_a_truncated_configuration_is_rolled_back() -> None:
    """4.1: "a server must be prepared to fall back to the previous configuration"."""
    cluster = Cluster(members("abc"))
    old = cluster.elect("a")
    cluster.cut("a", "bc")
    old.change(cluster.now, members("ab"))
    cluster.deliver()
    assert cluster["a"].log.configuration == members("ab")
    cluster.elect("b")
    cluster.dropped.clear()
    cluster.pass_time(1.0)
    assert cluster["a"].log.configuration == members("abc")
    assert cluster["a"].log.configuration_index == 1


def test_a_learner_that_has_caught_up_becomes_a_voter() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.nodes["d"] = Raft(
        node_id="d",
        instance="d.0",
        options=leader.options,
        random=Random("d"),
        now=cluster.now,
    )
    leader.change(cluster.now, leader.log.configuration.with_member(learner("d")))
    cluster.deliver()
    cluster.pass_time(0.5)
    assert leader.log.configuration.is_voter("d")
    member = leader.log.configuration.get("d")
    assert member
    assert not member.promote
    assert cluster["d"].log.configuration.is_voter("d")


@pytest.mark.parametrize(("promote", "instance"), [(False, "d.0"), (True, "")])
def test_a_learner_that_nobody_wants_or_has_met_stays_one(promote: bool, instance: str) -> None:
    member = evolve(learner("d"), promote=promote, instance=instance)
    configuration = members("abc").with_member(member)
    cluster = Cluster(configuration)
    leader = cluster.elect("a")
    cluster.pass_time(1.0)
    assert not leader.log.configuration.is_voter("d")


def test_a_learner_neither_counts_nor_campaigns() -> None:
    cluster = Cluster(members("ab", "c"))
    leader = cluster.elect("a")
    cluster.cut("b", "ac")
    index = leader.propose(cluster.now, [b"one"])
    cluster.deliver()
    assert cluster["c"].log.last_index == index
    assert leader.commit_index < index
    cluster.pass_time(5.0)
    assert not cluster.said("c", PreVote)


def test_a_learner_answers_vote_requests_like_a_voter() -> None:
    """4.1: it may be a voter in a configuration that it has not received yet."""
    cluster = Cluster(members("ab", "c"))
    cluster["c"].step(
        0.0,
        RequestVote(sender="a", recipient="c", term=2, last_log_index=1, last_log_term=1),
    )
    cluster.collect("c")
    assert cluster.said("c", VoteReply)[-1].granted


def test_a_candidate_that_is_in_no_configuration_of_ours_is_heard() -> None:
    cluster = Cluster(members("ab"))
    cluster["b"].step(
        0.0,
        RequestVote(sender="z", recipient="b", term=2, last_log_index=5, last_log_term=1),
    )
    cluster.collect("b")
    assert cluster.said("b", VoteReply)[-1].granted


def test_a_leader_that_removes_itself_does_not_count_itself_and_then_hands_over() -> None:
    """4.2.2: "the leader ... steps down once Cnew is committed"; till then it "does not include
    itself in majorities"."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("a", "c")
    index = leader.change(cluster.now, members("bc"))
    cluster.deliver()
    assert leader.leader
    assert leader.commit_index < index, "b alone is no majority of b and c"
    cluster.dropped.clear()
    cluster.pass_time(0.6)
    assert leader.leader is None
    assert cluster.said("a", TimeoutNow)
    assert leader.state_name == "Removed"
    cluster.pass_time(0.5)
    assert len(set(cluster.leaders()) & {"b", "c"}) == 1
    assert cluster.leaders() != ["a"]


def test_who_is_removed_by_what_is_not_committed_yet_may_still_be_needed() -> None:
    """4.2.2: it may campaign until the configuration without it is committed."""
    cluster = Cluster(members("ab"))
    raft = cluster["a"]
    raft.log.append([Entry(2, 1, members("b"))])
    raft.durability.log_changed(2)
    cluster.perform("a")
    assert raft.log.configuration == members("b")
    assert raft.election.may_campaign


def test_the_removed_learn_it_from_the_leader() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    leader.change(cluster.now, members("ab"))
    cluster.deliver()
    cluster.pass_time(0.2)
    assert cluster["c"].state_name == "Removed"
    assert any(isinstance(notice, Removed) for notice in cluster.notices["c"])
    assert leader.leader
    assert "c" not in leader.leader.progress


def test_the_removed_remember_it_however_much_is_compacted() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    leader.change(cluster.now, members("ab"))
    cluster.deliver()
    cluster.pass_time(0.3)
    removed = cluster["c"]
    assert removed.state_name == "Removed"
    removed.compact(cluster.now, removed.log.last_index)
    cluster.perform("c")
    assert removed.log.base_index > 0
    assert removed.state_name == "Removed"
    again = Raft(
        node_id="c",
        options=removed.options,
        random=Random(1),
        now=cluster.now,
        hard_state=removed.hard_state,
        log=removed.log,
        applied_index=removed.applied_index,
    )
    assert again.state_name == "Removed"


def test_the_removed_get_nothing_of_the_change_before_it_is_committed() -> None:
    """Or their logs would be newer than those of the nodes that decide."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("a", "b")
    index = leader.change(cluster.now, members("ab"))
    cluster.deliver()
    cluster.pass_time(0.3)
    assert cluster["c"].log.last_index < index


def test_who_was_away_learns_of_its_removal_from_a_refused_pre_vote() -> None:
    """SPEC 2: "it then learns it, stops campaigning and says so"."""
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("c", "ab")
    leader.change(cluster.now, members("ab"))
    cluster.deliver()
    cluster.pass_time(15.0)
    assert leader.leader
    assert "c" not in leader.leader.progress, "it is not told for ever"
    assert cluster["c"].state_name == "Candidate"
    cluster.dropped.clear()
    cluster.pass_time(3.0)
    assert cluster["c"].state_name == "Removed"
    asked = len(cluster.said("c", PreVote))
    cluster.pass_time(5.0)
    assert len(cluster.said("c", PreVote)) == asked
    assert cluster.leaders() == ["a"]


def test_what_a_removed_node_is_told_last_is_its_removal() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    index = leader.change(cluster.now, members("ab"))
    for _ in range(3):
        leader.propose(cluster.now, [b"secret"])
        cluster.deliver()
        cluster.pass_time(0.1)
    told = [
        e.index
        for m in cluster.sent
        if isinstance(m, AppendEntries)
        for e in m.entries
        if m.recipient == "c"
    ]
    assert max(told) == index


def test_a_change_is_noticed_when_it_takes_effect_and_when_it_is_committed() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    index = leader.change(cluster.now, members("ab"))
    cluster.deliver()
    seen = [
        (notice.index, notice.committed)
        for notice in cluster.notices["a"]
        if isinstance(notice, ConfigurationChanged) and notice.index == index
    ]
    assert seen == [(index, False), (index, True)]


def test_who_cannot_take_over_is_not_chosen() -> None:
    cluster = Cluster(members("ab", "c"))
    leader = cluster.elect("a")
    for target in ("a", "c", "z"):
        with pytest.raises(NotMember):
            leader.transfer(cluster.now, target)


def test_no_change_while_leadership_is_handed_over_and_no_other_way_round() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("a", "bc")
    leader.change(cluster.now, members("ab"))
    with pytest.raises(ChangeInProgress):
        leader.transfer(cluster.now, "b")

    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    leader.transfer(cluster.now, "b")
    with pytest.raises(ChangeInProgress):
        leader.change(cluster.now, members("ab"))
