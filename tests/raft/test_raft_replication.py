"""Replication, commitment and reads; each test cites the sentence that it proves."""

from __future__ import annotations

import pytest

from nefia.errors import NotLeader
from nefia.raft.core import Raft
from nefia.raft.entries import Entry, SnapshotMeta
from nefia.raft.messages import AppendEntries, AppendReply, InstallSnapshot, InstallSnapshotReply
from tests.raft.raft_cluster import Cluster, members, snapshot_at


def append(
    prev: tuple[int, int], *entries: tuple[int, int], commit: int = 0, term: int = 9
) -> AppendEntries:
    """From b to a; positions and entries are (index, term)."""
    return AppendEntries(
        sender="b",
        recipient="a",
        term=term,
        prev_log_index=prev[0],
        prev_log_term=prev[1],
        entries=tuple(Entry(index, t, b"%d.%d" % (index, t)) for index, t in entries),
        commit_index=commit,
        round=1,
    )


def follower(*terms: int) -> tuple[Cluster, Raft]:
    cluster = Cluster(members("abc"), logs={"a": terms})
    return cluster, cluster["a"]


def answer(cluster: Cluster, message: AppendEntries | InstallSnapshot) -> AppendReply:
    cluster["a"].step(cluster.now, message)
    replies = [m for m in cluster.collect("a") if isinstance(m, AppendReply)]
    assert len(replies) == 1
    return replies[0]


def terms_of(raft: Raft) -> list[int | None]:
    return [raft.log.term_at(index) for index in range(2, raft.log.last_index + 1)]


# Figure 2, AppendEntries.


def test_an_append_of_an_older_term_is_refused() -> None:
    """Figure 2: "Reply false if term < currentTerm"."""
    cluster = Cluster(members("abc"), terms={"a": 10})
    reply = answer(cluster, append((1, 1), (2, 9)))
    assert (reply.success, reply.term) == (False, 10)
    assert cluster["a"].log.last_index == 1


@pytest.mark.parametrize("prev", [(5, 2), (3, 3), (2, 1)])
def test_an_append_whose_place_does_not_match_is_refused(prev: tuple[int, int]) -> None:
    """Figure 2: "if log doesn't contain an entry at prevLogIndex whose term matches"."""
    cluster, raft = follower(2, 2)
    assert not answer(cluster, append(prev, (prev[0] + 1, 9))).success
    assert terms_of(raft) == [2, 2]


def test_conflicting_entries_and_all_that_follow_are_cut_off() -> None:
    """Figure 2: "delete the existing entry and all that follow it"."""
    cluster, raft = follower(2, 2, 2, 2)
    reply = answer(cluster, append((2, 2), (3, 5)))
    assert (reply.success, reply.match_index) == (True, 3)
    assert terms_of(raft) == [2, 5]


def test_a_stale_append_that_does_not_conflict_truncates_nothing() -> None:
    """Figure 2: only "if an existing entry conflicts"; messages arrive late and twice."""
    cluster, raft = follower()
    answer(cluster, append((1, 1), (2, 9), (3, 9), (4, 9)))
    assert answer(cluster, append((1, 1), (2, 9))).match_index == 2
    assert answer(cluster, append((1, 1))).match_index == 1
    assert terms_of(raft) == [9, 9, 9]


def test_only_what_the_message_has_verified_is_committed() -> None:
    """Figure 2: "min(leaderCommit, index of last new entry)"."""
    cluster, raft = follower(2, 2, 2)
    answer(cluster, append((2, 2), commit=4))
    assert raft.commit_index == 2
    answer(cluster, append((2, 2), (3, 2), commit=4))
    assert raft.commit_index == 3


def test_a_heartbeat_that_claims_nothing_commits_nothing() -> None:
    cluster, raft = follower(2, 2, 2)
    answer(cluster, append((0, 0), commit=4))
    assert raft.commit_index == 0


def test_the_commit_index_never_goes_back() -> None:
    cluster, raft = follower()
    answer(cluster, append((1, 1), (2, 9), (3, 9), commit=3))
    answer(cluster, append((1, 1), commit=1))
    assert raft.commit_index == 3


def test_an_acknowledgement_waits_for_the_disk_and_a_heartbeats_does_not() -> None:
    cluster, raft = follower()
    answer(cluster, append((1, 1)))
    cluster.slow_disks.add("a")
    raft.step(cluster.now, append((1, 1), (2, 9)))
    assert cluster.collect("a") == []
    assert answer(cluster, append((1, 1))).match_index == 1
    cluster.finish_write("a")
    assert cluster.said("a", AppendReply)[-1].match_index == 2


@pytest.mark.parametrize(
    ("logs", "prev", "hint"),
    [
        ((4, 4, 5, 5), (9, 7), (5, 5)),
        ((4, 4, 5, 5), (5, 4), (3, 4)),
        ((4, 4, 5, 5), (4, 3), (1, 1)),
        ((2,), (9, 7), (2, 2)),
    ],
)
def test_a_refusal_hints_past_whole_terms(
    logs: tuple[int, ...], prev: tuple[int, int], hint: tuple[int, int]
) -> None:
    """5.3: "one AppendEntries RPC will be required for each term with conflicting entries"."""
    cluster, _ = follower(*logs)
    reply = answer(cluster, append(prev))
    assert (reply.hint_index, reply.hint_term) == hint


def test_logs_that_parted_long_ago_meet_in_few_messages() -> None:
    """Figure 7: the leader finds where the logs part and brings them together."""
    ours = (*[2] * 40, *[4] * 40, *[6] * 5)
    theirs = (*[2] * 40, *[3] * 30, *[5] * 30)
    cluster = Cluster(members("abc"), logs={"a": ours, "b": ours, "c": theirs})
    cluster.cut("a", "c")
    leader = cluster.elect("a")
    cluster.dropped.clear()
    before = len(cluster.said("c", AppendReply))
    cluster.pass_time(0.4)
    refused = [r for r in cluster.said("c", AppendReply)[before:] if not r.success]
    assert len(refused) <= 3
    assert cluster["c"].log.last_index == leader.log.last_index
    assert terms_of(cluster["c"]) == terms_of(leader)


# Commitment.


def test_an_entry_is_committed_once_a_majority_has_stored_it() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    leader.propose(cluster.now, [b"one"])
    cluster.deliver()
    cluster.pass_time(0.3)
    assert all(cluster.commands(node_id) == [b"one"] for node_id in "abc")


def test_the_leader_counts_itself_only_when_its_own_disk_has_it() -> None:
    """10.2.1: the leader may write in parallel, but counts itself only afterwards."""
    cluster = Cluster(members("ab"))
    leader = cluster.elect("a")
    cluster.slow_disks.add("a")
    before = leader.commit_index
    index = leader.propose(cluster.now, [b"one"])
    cluster.deliver()
    assert leader.leader
    assert leader.leader.progress["b"].match_index == index
    assert leader.commit_index == before
    cluster.finish_write("a")
    assert leader.commit_index == index


def test_a_majority_without_the_leaders_disk_commits() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.slow_disks.add("a")
    index = leader.propose(cluster.now, [b"one"])
    cluster.deliver()
    assert leader.commit_index == index


def test_old_terms_are_not_committed_by_counting() -> None:
    """5.4.2 and figure 8: "only log entries from the leader's current term are committed by
    counting replicas"."""
    fresh = Cluster(members("abc"), logs={"a": (2,), "b": (2,), "c": ()})
    fresh.slow_disks |= {"b", "c"}
    raft = fresh["a"]
    fresh.now = raft.election.due
    fresh.tick("a")
    for _ in range(3):
        for node_id in ("b", "c"):
            if node_id in fresh.writes and not fresh.writes[node_id].entries:
                fresh.finish_write(node_id)
        fresh.deliver()
    assert raft.leader
    assert raft.leader.progress["b"].match_index <= 2
    raft.step(
        fresh.now,
        AppendReply(
            sender="b", recipient="a", term=raft.term, round=1, success=True, match_index=2
        ),
    )
    assert raft.commit_index == 0, "entry 2 is on a majority, and it is of an older term"
    raft.step(
        fresh.now,
        AppendReply(
            sender="b", recipient="a", term=raft.term, round=1, success=True, match_index=3
        ),
    )
    assert raft.commit_index == 3, "and committed with the first entry of the own term"


def test_proposals_are_the_leaders_to_take() -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    with pytest.raises(NotLeader) as refused:
        cluster["b"].propose(cluster.now, [b"one"])
    assert refused.value.details["leader_id"] == "a"
    cluster["a"].transfer(cluster.now, "b")
    with pytest.raises(NotLeader):
        cluster["a"].propose(cluster.now, [b"one"])


# Reads (6.4).


def test_a_read_needs_a_round_that_begins_after_it() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.pass_time(0.2)
    leader.read(cluster.now, 1)
    said = [m for m in cluster.collect("a") if isinstance(m, AppendEntries)]
    assert not cluster.reads["a"]
    old = AppendReply(
        sender="b", recipient="a", term=leader.term, round=said[0].round - 1, success=True
    )
    leader.step(cluster.now, old)
    cluster.perform("a")
    assert not cluster.reads["a"]
    leader.step(
        cluster.now,
        AppendReply(sender="b", recipient="a", term=leader.term, round=said[0].round, success=True),
    )
    cluster.perform("a")
    assert [(r.token, r.index) for r in cluster.reads["a"]] == [(1, leader.commit_index)]


def test_reads_that_come_during_a_round_share_the_next() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.pass_time(0.2)
    leader.read(cluster.now, 1)
    held = [m for m in cluster.collect("a") if isinstance(m, AppendEntries)]
    for token in range(2, 12):
        leader.read(cluster.now, token)
    assert not [m for m in cluster.collect("a") if isinstance(m, AppendEntries)]
    cluster.queue += held
    cluster.deliver()
    assert [r.token for r in cluster.reads["a"]] == list(range(1, 12))
    rounds = {m.round for m in cluster.said("a", AppendEntries) if m.round >= held[0].round}
    assert len(rounds) == 2


def test_a_new_leader_reads_nothing_before_an_entry_of_its_own_is_committed() -> None:
    """6.4: "the leader must have the latest information on which entries are committed"."""
    cluster = Cluster(members("abc"), logs={"a": (2, 2), "b": (2, 2), "c": (2, 2)})
    cluster.slow_disks |= set("abc")
    leader = cluster["a"]
    cluster.now = leader.election.due
    cluster.tick("a")
    for _ in range(4):
        for node_id in "abc":
            if node_id in cluster.writes and not cluster.writes[node_id].entries:
                cluster.finish_write(node_id)
        cluster.deliver()
    assert leader.leader
    leader.read(cluster.now, 1)
    cluster.deliver()
    assert not cluster.reads["a"]
    cluster.slow_disks.clear()
    for node_id in "abc":
        if node_id in cluster.writes:
            cluster.finish_write(node_id)
    cluster.deliver()
    cluster.pass_time(0.3)
    assert [(r.token, r.index) for r in cluster.reads["a"]] == [(1, leader.leader.term_start)]


def test_a_deposed_leader_answers_no_read() -> None:
    cluster = Cluster(members("abc"))
    old = cluster.elect("a")
    cluster.cut("a", "bc")
    old.read(cluster.now, 1)
    cluster.pass_time(3.0)
    assert cluster.leaders() != ["a"]
    cluster.dropped.clear()
    cluster.pass_time(1.0)
    assert not cluster.reads["a"]


# Snapshots (5.1, 5.3).


def test_who_needs_what_was_compacted_gets_a_snapshot() -> None:
    cluster = Cluster(members("abc"))
    leader = cluster.elect("a")
    cluster.cut("c", "ab")
    leader.propose(cluster.now, [b"%d" % i for i in range(20)])
    cluster.deliver()
    cluster.pass_time(0.1)
    meta = snapshot_at(leader, 15)
    leader.compact(cluster.now, 15)
    cluster.dropped.clear()
    cluster.pass_time(0.7)
    orders = [order for order in cluster.snapshots if order.node_id == "c"]
    assert orders
    assert orders[0].minimum_index == 15
    leader.snapshot_sent(cluster.now, "c", meta)
    cluster.deliver()
    cluster.pass_time(0.3)
    follower_log = cluster["c"].log
    assert follower_log.base == meta
    assert follower_log.last_index == leader.log.last_index
    assert cluster["c"].commit_index == leader.commit_index


def test_a_snapshot_of_what_is_there_already_cuts_nothing_off() -> None:
    """5.3: if the log has the snapshot's last entry, "retain log entries following it"."""
    cluster, raft = follower(2, 2, 2)
    meta = snapshot_at(raft, 3)
    raft.step(
        cluster.now, InstallSnapshot(sender="b", recipient="a", term=9, snapshot=meta, round=1)
    )
    said = cluster.collect("a")
    assert raft.log.last_index == 4
    assert raft.commit_index == 3
    assert [m.match_index for m in said if isinstance(m, InstallSnapshotReply)] == [3]


def test_entries_that_a_snapshot_holds_are_not_applied_as_well() -> None:
    """5.3: "the snapshot will contain new information", and the state is replaced by it whole.

    Entries up to 3 are committed and were no longer in memory; the driver brings them from storage,
    and has not come for more when the snapshot comes.
    """
    cluster, raft = follower(9, 9)
    stored = raft.log.from_index(1)
    raft.log._drop_from_memory(3)
    answer(cluster, append((3, 9), commit=3))
    raft.fetched(cluster.now, "a", stored)
    assert raft.applied_index == 3
    snapshot = SnapshotMeta(50, 9, members("abc"), 1)
    raft.step(
        cluster.now, InstallSnapshot(sender="b", recipient="a", term=9, snapshot=snapshot, round=1)
    )
    assert raft.applied_index == raft.commit_index == 50
    effects = raft.take()
    assert effects.restore == snapshot
    assert not effects.committed


def test_a_compacted_log_answers_appends_that_begin_before_it() -> None:
    cluster, raft = follower()
    answer(cluster, append((1, 1), (2, 9), (3, 9), (4, 9), commit=4))
    raft.compact(cluster.now, 3)
    cluster.perform("a")
    assert answer(cluster, append((1, 1), (2, 9), (3, 9), (4, 9), (5, 9))).match_index == 5
    assert answer(cluster, append((1, 1), (2, 9))).match_index == 2
    assert answer(cluster, append((0, 0))).match_index == 0
