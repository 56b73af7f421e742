"""The history of a cluster, its feature level, and what a leader does about members unasked."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve

from nefia.errors import InvalidArgument, NewerFormat, NotMember, WouldLoseQuorum
from nefia.node.caretaker import MIN_VOTERS_AFTER_CLEANUP
from tests.node.cluster import SETTINGS, Cluster
from tests.node.snapshots import FEW, base_index, fill, held

DEAD_AFTER_SECONDS = 12.0


async def history(cluster: Cluster, name: str = "") -> list[dict[str, Any]]:
    name = name or await cluster.new_leader()
    events: list[dict[str, Any]] = (await cluster.ask(name, "history"))["events"]
    return events


def told(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["kind"], event["node_id"]) for event in events]


def newest(cluster: Cluster, name: str) -> tuple[str, str]:
    (event,) = cluster.up[name].machine.history(1)
    return event.kind, event.node_id


async def test_it_tells_how_the_cluster_came_to_be(cluster: Cluster) -> None:
    events = await history(cluster)
    assert told(events) == [
        ("founded", "n1"),
        ("elected", "n1"),
        ("added", "n2"),
        ("promoted", "n2"),
        ("added", "n3"),
        ("promoted", "n3"),
    ]
    assert events[2]["detail"] == "voters: n1; learners: n2"
    assert [event["number"] for event in events] == list(range(1, 7))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("crash", "the process of n1 has ended"),
        ("isolate", "nothing heard from n1 for"),
        ("leave", "n1 hands over"),
    ],
)
async def test_it_tells_who_was_elected_and_why(cluster: Cluster, how: str, why: str) -> None:
    if how == "leave":
        await cluster.leave("n1")
    else:
        getattr(cluster, how)("n1")
    successor = await cluster.new_leader("n1")
    await cluster.until(lambda: newest(cluster, successor) == ("elected", successor))
    event = (await history(cluster, successor))[-1]
    assert (event["kind"], event["node_id"]) == ("elected", successor)
    assert event["term"] == cluster.up[successor].raft.term
    assert event["detail"].startswith(why)


async def test_a_second_round_is_told_with_the_reason_of_the_first(cluster: Cluster) -> None:
    """By then no leader is known, which is no reason that helps anyone."""
    cluster.crash("n1")
    cluster.isolate("n2")
    await trio.sleep(5)
    cluster.heal()
    leader = await cluster.new_leader("n1")
    await cluster.until(lambda: newest(cluster, leader) == ("elected", leader))
    assert "n1" in (await history(cluster, leader))[-1]["detail"]


async def test_operators_reasons_are_kept(cluster: Cluster) -> None:
    await cluster.ask("n1", "transfer_leader", to="n2", reason="kernel upgrade")
    await cluster.new_leader("n1")
    await cluster.ask("n2", "remove_peer", id="n1", reason="broken fan")
    events = await history(cluster)
    asked, elected, removed = events[-3:]
    assert (asked["kind"], asked["node_id"], asked["reason"]) == (
        "transfer",
        "n2",
        "kernel upgrade",
    )
    assert (elected["node_id"], elected["detail"]) == ("n2", "n1 hands over")
    assert (removed["kind"], removed["node_id"], removed["reason"]) == (
        "removed",
        "n1",
        "broken fan",
    )
    with pytest.raises(InvalidArgument, match="reason"):
        await cluster.ask("n2", "remove_peer", id="n3", reason="x" * 201)


async def test_all_nodes_hold_the_same_and_keep_it(cluster: Cluster) -> None:
    before = await history(cluster)
    await cluster.until(cluster.is_calm)
    for name in ("n1", "n2", "n3"):
        local = await cluster.ask(name, "history", consistency="local")
        assert local["events"] == before
    for name in ("n1", "n2", "n3"):
        cluster.crash(name)
    for name in ("n1", "n2", "n3"):
        await cluster.start(name)
    assert (await history(cluster))[: len(before)] == before


async def test_a_moved_member_is_told(nodes: Cluster) -> None:
    await nodes.form("n1", "n2")
    nodes.crash("n2")
    nodes.disks["n2"].release()
    await nodes.start("n2", address="n2:9800")
    await nodes.ask("n1", "add_peer", id="n2", addr="n2:9800", reason="new rack")
    event = (await history(nodes))[-1]
    assert (event["kind"], event["node_id"]) == ("moved", "n2")
    assert (event["detail"], event["reason"]) == ("now at n2:9800", "new rack")


async def test_an_older_node_gets_no_vote_in_a_newer_cluster(nodes: Cluster) -> None:
    """It could not read the log that is there (SPEC 6)."""
    await nodes.form("n1")
    nodes.settings = evolve(SETTINGS, features=0)
    await nodes.start("n2")
    await nodes.ask("n1", "add_peer", id="n2", addr="n2:9700", preflight=False, wait=False)
    await nodes.until(lambda: "n2" in nodes.failures)
    assert isinstance(nodes.failures["n2"], NewerFormat)
    await trio.sleep(5)
    assert nodes.members() == {"n1": True, "n2": False}
    await nodes.ask("n1", "remove_peer", id="n2")
    del nodes.disks["n2"]
    await nodes.start("n2")
    with pytest.raises(NewerFormat) as refused:
        await nodes.ask("n1", "add_peer", id="n2", addr="n2:9700")
    assert refused.value.hint == "upgrade n2 first"
    assert nodes.members() == {"n1": True}


async def test_the_level_rises_once_the_last_voter_is_upgraded(nodes: Cluster) -> None:
    """Until then no leader proposes what an older node cannot read (SPEC 6)."""
    nodes.settings = evolve(SETTINGS, features=0)
    await nodes.form("n1", "n2")
    assert "elected" not in dict(told(await history(nodes)))
    nodes.settings = SETTINGS
    await nodes.restart("n2")
    leader = await nodes.new_leader()
    await nodes.until(lambda: _features(nodes, leader, "n2") == 1)
    assert nodes.up[leader].raft.log.configuration.features == 0
    assert "elected" not in dict(told(await history(nodes)))
    await nodes.restart("n1")
    leader = await nodes.new_leader()
    await nodes.until(lambda: nodes.up[leader].raft.log.configuration.features == 1)
    await nodes.until(lambda: newest(nodes, leader) == ("elected", leader))


async def test_a_downgrade_counts_until_the_last_voter_is_upgraded(nodes: Cluster) -> None:
    """Else the level would rise while the downgraded voter cannot follow."""
    older = evolve(SETTINGS, features=0)
    nodes.settings = older
    await nodes.form("n1", "n2", "n3")
    for settings in (SETTINGS, older):
        nodes.settings = settings
        await nodes.restart("n3")
        await _met_with(nodes, "n3", settings.features)
    nodes.settings = SETTINGS
    for name in ("n2", "n1"):
        await nodes.restart(name)
        await _met_with(nodes, name, 1)
    await trio.sleep(5)
    leader = await nodes.new_leader()
    assert nodes.up[leader].raft.log.configuration.features == 0
    assert not nodes.failures
    await nodes.restart("n3")
    leader = await nodes.new_leader()
    await nodes.until(lambda: nodes.up[leader].raft.log.configuration.features == 1)


async def test_an_older_node_does_not_start_on_newer_data(nodes: Cluster) -> None:
    await nodes.form("n1", "n2")
    nodes.crash("n2")
    nodes.settings = evolve(SETTINGS, features=0)
    with pytest.raises(NewerFormat, match="feature level 1 and this version of nefia knows 0"):
        await nodes.restart("n2")
    nodes.settings = SETTINGS
    await nodes.restart("n2")
    await nodes.until(nodes.is_calm)


async def test_an_older_node_does_not_start_on_a_newer_snapshot(nodes: Cluster) -> None:
    """One that is ahead of the log, as when a node dies while it is brought one."""
    nodes.settings = evolve(SETTINGS, snapshots=FEW)
    await nodes.form("n1")
    await fill(nodes, 2 * FEW.threshold)
    await nodes.until(lambda: held(nodes, "n1"))
    await nodes.start("n2")
    nodes.crash("n2")
    snapshots = nodes.disks["n2"].shelf.snapshots
    snapshots.update(nodes.disks["n1"].shelf.snapshots)
    nodes.settings = evolve(SETTINGS, features=0)
    with pytest.raises(NewerFormat):
        await nodes.restart("n2")


async def test_an_older_node_takes_no_newer_snapshot(nodes: Cluster) -> None:
    """It would take for damaged what it cannot read."""
    nodes.settings = evolve(SETTINGS, snapshots=FEW)
    await nodes.form("n1")
    await fill(nodes, 2 * FEW.threshold)
    await nodes.until(lambda: base_index(nodes, "n1"))
    nodes.settings = evolve(SETTINGS, features=0)
    await nodes.start("n2")
    await nodes.ask("n1", "add_peer", id="n2", addr="n2:9700", preflight=False, wait=False)
    await nodes.until(lambda: "n2" in nodes.failures)
    assert isinstance(nodes.failures["n2"], NewerFormat)
    assert held(nodes, "n2") == []


async def _met_with(nodes: Cluster, name: str, level: int) -> None:
    leader = await nodes.new_leader()
    await nodes.until(lambda: _features(nodes, leader, name) == level)


def _features(cluster: Cluster, leader: str, name: str) -> int:
    member = cluster.up[leader].raft.log.configuration.get(name)
    return member.features if member else -1


async def test_a_dry_run_shows_the_quorum_and_changes_nothing(cluster: Cluster) -> None:
    await cluster.start("n4")
    before = cluster.up["n1"].raft.log.last_index
    added = await cluster.ask("n1", "add_peer", id="n4", addr="n4:9700", dry_run=True)
    assert added == {
        "changed": False,
        "before": {
            "voters": ["n1", "n2", "n3"],
            "learners": [],
            "quorum": 2,
            "answering": ["n1", "n2", "n3"],
            "failure_tolerance": 1,
        },
        "after": {
            "voters": ["n1", "n2", "n3", "n4"],
            "learners": [],
            "quorum": 3,
            "answering": ["n1", "n2", "n3", "n4"],
            "failure_tolerance": 1,
        },
    }
    removed = await cluster.ask("n1", "remove_peer", id="n3", dry_run=True)
    assert (removed["after"]["quorum"], removed["after"]["failure_tolerance"]) == (2, 0)
    cluster.crash("n3")
    await trio.sleep(2)
    with pytest.raises(WouldLoseQuorum):
        await cluster.ask("n1", "remove_peer", id="n2", dry_run=True)
    with pytest.raises(NotMember):
        await cluster.ask("n1", "remove_peer", id="n9", dry_run=True)
    assert cluster.up["n1"].raft.log.last_index == before


async def test_members_show_how_a_learner_gets_on(nodes: Cluster) -> None:
    await nodes.form("n1")
    for _ in range(120):
        await nodes.push("n1", "x" * 250_000)
    await nodes.start("n2")
    nodes.disks["n2"].write_latency = lambda: 2.0
    await nodes.ask("n1", "add_peer", id="n2", addr="n2:9700", wait=False)
    shown: list[dict[str, Any]] = []
    while not nodes.members()["n2"]:
        shown.append((await nodes.ask("n1", "members"))["members"][1])
        await trio.sleep(0.5)
    assert {each["state"] for each in shown} >= {"Learner"}
    assert max(each["lag"] for each in shown) > 64
    assert any(each["estimate_ms"] for each in shown)
    leader, follower = (await nodes.ask("n1", "members"))["members"]
    assert leader["lag"] == 0
    assert "estimate_ms" not in follower


async def with_cleanup(nodes: Cluster, *names: str) -> None:
    nodes.settings = evolve(SETTINGS, dead_peer_cleanup=DEAD_AFTER_SECONDS)
    await nodes.form(*names)


async def test_a_dead_peer_is_removed_when_its_time_is_up(nodes: Cluster) -> None:
    await with_cleanup(nodes, "n1", "n2", "n3", "n4")
    nodes.crash("n4")
    await trio.sleep(DEAD_AFTER_SECONDS - 5)
    assert len(nodes.members()) == 4
    await trio.sleep(10)
    assert nodes.members() == {"n1": True, "n2": True, "n3": True}
    event = (await history(nodes))[-1]
    assert (event["kind"], event["node_id"]) == ("removed", "n4")
    assert event["reason"] == "silent for 12s (dead_peer_cleanup)"


async def test_cleanup_leaves_enough_voters_and_takes_learners(nodes: Cluster) -> None:
    await with_cleanup(nodes, "n1", "n2", "n3")
    await nodes.ask("n1", "add_peer", id="n4", addr="n4:9700", preflight=False, wait=False)
    nodes.crash("n3")
    await trio.sleep(3 * DEAD_AFTER_SECONDS)
    assert nodes.members() == {"n1": True, "n2": True, "n3": True}
    assert len(nodes.members()) == MIN_VOTERS_AFTER_CLEANUP


async def test_a_new_leader_counts_anew(nodes: Cluster) -> None:
    """It cannot know for how long a member was silent before."""
    await with_cleanup(nodes, "n1", "n2", "n3", "n4", "n5")
    nodes.crash("n4")
    await trio.sleep(DEAD_AFTER_SECONDS - 5)
    await nodes.leave("n1")
    await nodes.new_leader("n1")
    await trio.sleep(10)
    assert "n4" in nodes.members()
    await nodes.restart("n1")
    await trio.sleep(DEAD_AFTER_SECONDS)
    assert set(nodes.members()) == {"n1", "n2", "n3", "n5"}


async def test_without_the_setting_nobody_is_removed(cluster: Cluster) -> None:
    await cluster.start("n4")
    await cluster.ask("n1", "add_peer", id="n4", addr="n4:9700")
    cluster.crash("n4")
    await trio.sleep(40)
    assert len(cluster.members()) == 4
