"""Making a cluster and changing its members (SPEC 2), on real nodes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from attrs import evolve

from nefia.errors import (
    AlreadyInitialized,
    ChangeInProgress,
    NotInitialized,
    NotLeader,
    NotMember,
    OtherCluster,
    OtherNode,
    OutcomeUnknown,
    PeerUnreachable,
    WouldLoseQuorum,
)
from nefia.node.membership import PREFLIGHT_AGAIN_SECONDS, PREFLIGHT_PATIENCE_SECONDS
from tests.node.cluster import Cluster


async def test_init_while_the_node_runs_and_only_once(nodes: Cluster) -> None:
    await nodes.start("n1")
    assert nodes.up["n1"].node.status()["state"] == "Uninitialized"
    with pytest.raises(NotInitialized):
        await nodes.push("n1", 1)
    cluster_id = (await nodes.ask("n1", "init"))["cluster_id"]
    await nodes.new_leader()
    assert (await nodes.ask("n1", "status"))["cluster_id"] == cluster_id
    with pytest.raises(AlreadyInitialized) as refused:
        await nodes.ask("n1", "init")
    assert refused.value.details["cluster_id"] == cluster_id
    await nodes.push("n1", 1)


async def test_a_new_cluster_is_there_after_a_crash_at_any_moment_of_init(nodes: Cluster) -> None:
    for step in range(12):
        name = f"n{step}"
        await nodes.start(name)
        nodes._nursery.start_soon(_ignoring_the_end, nodes, name)
        await trio.sleep(step / 2000)
        process = await nodes.restart(name)
        if process.node.status()["state"] == "Uninitialized":
            await nodes.ask(name, "init")
        assert await nodes.new_leader() == name
        assert process.node.status()["cluster_id"]
        nodes.crash(name)


async def _ignoring_the_end(nodes: Cluster, name: str) -> None:
    with contextlib.suppress(OutcomeUnknown):
        await nodes.ask(name, "init")


async def test_members_are_added_and_become_voters(nodes: Cluster) -> None:
    for name in ("n1", "n2", "n3"):
        await nodes.start(name)
    await nodes.ask("n1", "init")
    await nodes.new_leader()
    for name in ("n2", "n3"):
        added = await nodes.ask("n1", "add_peer", id=name, addr=f"{name}:9700")
        assert added == {
            "changed": True,
            "member": {"id": name, "address": f"{name}:9700", "voter": True},
        }
    await nodes.until(nodes.is_calm)
    ids = {process.node.status()["cluster_id"] for process in nodes.up.values()}
    assert len(ids) == 1
    assert nodes.members() == {"n1": True, "n2": True, "n3": True}
    for name in nodes.up:
        shown = (await nodes.ask(name, "members"))["members"]
        assert [(m["id"], m["state"], m["local"]) for m in shown] == [
            ("n1", "Leader", name == "n1"),
            ("n2", "Follower", name == "n2"),
            ("n3", "Follower", name == "n3"),
        ]


async def test_adding_a_member_again_changes_nothing(cluster: Cluster) -> None:
    before = cluster.up["n1"].raft.log.last_index
    again = await cluster.ask("n1", "add_peer", id="n2", addr="n2:9700")
    assert again["changed"] is False
    assert cluster.up["n1"].raft.log.last_index == before


async def test_another_address_changes_the_address(cluster: Cluster) -> None:
    cluster.crash("n3")
    await cluster.start("n3", address="n3:9800")
    moved = await cluster.ask("n1", "add_peer", id="n3", addr="n3:9800")
    assert moved["changed"] is True
    assert moved["member"] == {"id": "n3", "address": "n3:9800", "voter": True}
    await cluster.push("n1", "after the move")
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1


async def test_a_member_elsewhere_than_configured_is_answered_where_it_is(cluster: Cluster) -> None:
    """Else its vote, where it is needed, is asked for in vain, and no leader can correct that."""
    cluster.crash("n3")
    await cluster.start("n3", address="n3:9800")
    cluster.crash("n1")
    await cluster.push(await cluster.new_leader("n1"), "after the move")


@pytest.mark.parametrize("preflight", [True, False])
async def test_two_adds_of_the_same_node_at_once(nodes: Cluster, preflight: bool) -> None:
    """Whichever is first: the other may be refused, and must not take the vote away again."""
    await nodes.form("n1", "n2")
    await nodes.start("n3")
    refused: list[ChangeInProgress] = []

    async def add() -> None:
        try:
            await nodes.ask("n1", "add_peer", id="n3", addr="n3:9700", preflight=preflight)
        except ChangeInProgress as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add)
        nursery.start_soon(add)
    assert len(refused) <= 1
    await nodes.until(lambda: nodes.members() == {"n1": True, "n2": True, "n3": True})


async def test_a_node_of_another_cluster_is_refused(nodes: Cluster) -> None:
    await nodes.form("n1", "n2")
    await nodes.start("x1")
    await nodes.ask("x1", "init")
    await nodes.until(lambda: nodes.up["x1"].raft.leader is not None)
    before = nodes.up["n1"].raft.log.last_index
    with pytest.raises(OtherCluster) as refused:
        await nodes.ask("n1", "add_peer", id="x1", addr="x1:9700")
    assert refused.value.changed is False
    assert nodes.up["n1"].raft.log.last_index == before


async def test_the_wrong_node_at_the_address_is_refused(nodes: Cluster) -> None:
    await nodes.form("n1", "n2")
    await nodes.start("n3")
    before = nodes.up["n1"].raft.log.last_index
    with pytest.raises(OtherNode) as refused:
        await nodes.ask("n1", "add_peer", id="n4", addr="n3:9700")
    assert refused.value.changed is False
    assert nodes.up["n1"].raft.log.last_index == before


async def test_a_node_that_cannot_be_reached_is_refused(nodes: Cluster) -> None:
    await nodes.form("n1", "n2")
    before = nodes.up["n1"].raft.log.last_index
    patience = {"n3:9700": PREFLIGHT_PATIENCE_SECONDS, "nowhere:1": 0.0}
    for address, seconds in patience.items():
        began = trio.current_time()
        with pytest.raises(PeerUnreachable) as refused:
            await nodes.ask("n1", "add_peer", id="n3", addr=address)
        assert refused.value.changed is False
        assert trio.current_time() - began == pytest.approx(seconds, abs=1.0)
    assert nodes.up["n1"].raft.log.last_index == before


async def test_a_node_that_is_just_starting_is_waited_for(nodes: Cluster) -> None:
    await nodes.form("n1", "n2")
    added: list[dict[str, Any]] = []

    async def add() -> None:
        added.append(await nodes.ask("n1", "add_peer", id="n3", addr="n3:9700"))

    nodes._nursery.start_soon(add)
    await trio.sleep(PREFLIGHT_PATIENCE_SECONDS - 2 * PREFLIGHT_AGAIN_SECONDS)
    assert "n3" not in nodes.members(), "nothing is changed before it has been talked to"
    await nodes.start("n3")
    await nodes.until(lambda: added)
    assert added[0]["member"]["voter"]


async def test_without_preflight_a_node_may_come_later(nodes: Cluster) -> None:
    await nodes.form("n1", "n2")
    added = await nodes.ask("n1", "add_peer", id="n3", addr="n3:9700", preflight=False, wait=False)
    assert added["member"]["voter"] is False
    await nodes.start("n3")
    await nodes.until(lambda: nodes.members().get("n3"))


async def test_a_node_that_is_met_before_its_entry_is_durable_is_promoted(nodes: Cluster) -> None:
    """Its data directory cannot be recorded at first contact: a change is under way (SPEC 2)."""
    await nodes.form("n1", "n2")
    await nodes.start("n3")
    nodes.disks["n1"].write_latency = nodes.disks["n2"].write_latency = lambda: 0.2
    await nodes.ask("n1", "add_peer", id="n3", addr="n3:9700", preflight=False)
    assert nodes.members()["n3"]


@pytest.mark.parametrize("met", [True, False])
async def test_a_later_leader_pursues_the_promotion(nodes: Cluster, met: bool) -> None:
    """SPEC 2: "That promotion is wanted is recorded with the learner, and every later leader
    pursues it", whether or not the first leader has ever met it."""
    await nodes.form("n1", "n2", "n3")
    await nodes.start("n4")
    if not met:
        nodes.cut("n1", "n4")
    for disk in nodes.disks.values():
        disk.write_latency = lambda: 0.1
    await nodes.ask("n1", "add_peer", id="n4", addr="n4:9700", preflight=met, wait=False)
    assert nodes.members() == {"n1": True, "n2": True, "n3": True, "n4": False}
    nodes.crash("n1")
    await nodes.new_leader("n1")
    await nodes.until(lambda: nodes.leader and nodes.members()["n4"], 30)


async def test_removing_a_learner_cancels_its_promotion(cluster: Cluster) -> None:
    await cluster.ask("n1", "add_peer", id="n4", addr="n4:9700", preflight=False, wait=False)
    await cluster.ask("n1", "remove_peer", id="n4")
    await cluster.start("n4")
    await trio.sleep(5)
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}


async def test_a_follower_that_runs_learns_of_its_removal(cluster: Cluster) -> None:
    assert await cluster.ask("n1", "remove_peer", id="n3") == {"changed": True}
    await cluster.until(lambda: cluster.up["n3"].node.status()["state"] == "Removed", 2)
    term = cluster.up["n1"].raft.term
    await trio.sleep(10)
    assert (cluster.leader, cluster.up["n1"].raft.term) == ("n1", term)


async def test_a_follower_that_was_down_learns_of_its_removal(cluster: Cluster) -> None:
    cluster.crash("n3")
    await cluster.ask("n1", "remove_peer", id="n3")
    await trio.sleep(60)
    term = cluster.up["n1"].raft.term
    removed = await cluster.restart("n3")
    await cluster.until(lambda: removed.node.status()["state"] == "Removed", 5)
    await cluster.push("n1", 1)
    await trio.sleep(10)
    assert (cluster.leader, cluster.up["n1"].raft.term) == ("n1", term)
    assert removed.node.status()["state"] == "Removed"


async def test_removing_the_leader_hands_over(cluster: Cluster) -> None:
    assert await cluster.ask("n1", "remove_peer", id="n1") == {"changed": True}
    leader = await cluster.new_leader("n1", seconds=0.2)
    assert cluster.members() == {"n2": True, "n3": True}
    await cluster.push(leader, 1)
    await cluster.until(lambda: cluster.up["n1"].node.status()["state"] == "Removed", 2)


async def test_a_stranger_cannot_be_removed(cluster: Cluster) -> None:
    with pytest.raises(NotMember):
        await cluster.ask("n1", "remove_peer", id="n9")


async def test_the_quorum_is_not_given_away(cluster: Cluster) -> None:
    cluster.crash("n3")
    await trio.sleep(2)
    before = cluster.up["n1"].raft.log.last_index
    with pytest.raises(WouldLoseQuorum):
        await cluster.ask("n1", "remove_peer", id="n2")
    with pytest.raises(WouldLoseQuorum):  # {n1, n3} would need n3
        await cluster.ask("n1", "remove_peer", id="n2", force=True)
    assert cluster.up["n1"].raft.log.last_index == before
    await cluster.ask("n1", "remove_peer", id="n3")
    await cluster.ask("n1", "remove_peer", id="n2")
    with pytest.raises(WouldLoseQuorum):
        await cluster.ask("n1", "remove_peer", id="n1", force=True)
    await cluster.push("n1", 1)


async def test_force_spends_the_last_reserve_only(nodes: Cluster) -> None:
    """Of four voters one is silent: three answer. Without another, two of three would."""
    await nodes.form("n1", "n2", "n3", "n4")
    nodes.crash("n4")
    await trio.sleep(2)
    with pytest.raises(WouldLoseQuorum):
        await nodes.ask("n1", "remove_peer", id="n3")
    assert await nodes.ask("n1", "remove_peer", id="n3", force=True) == {"changed": True}
    with pytest.raises(WouldLoseQuorum):
        await nodes.ask("n1", "remove_peer", id="n2", force=True)


async def test_one_membership_change_at_a_time(cluster: Cluster) -> None:
    await cluster.start("n4")
    for name in ("n1", "n2", "n3"):
        cluster.disks[name].write_latency = lambda: 0.1
    errors: list[ChangeInProgress] = []

    async def remove(name: str) -> None:
        try:
            await cluster.ask("n1", "remove_peer", id=name)
        except ChangeInProgress as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove, "n2")
        nursery.start_soon(remove, "n3")
    (error,) = errors
    assert error.changed is False
    assert len(cluster.members()) == 2


async def test_a_membership_change_without_a_quorum_has_an_unknown_outcome(
    cluster: Cluster,
) -> None:
    await cluster.start("n4")
    cluster.disks["n2"].stall()
    cluster.disks["n3"].stall()
    with pytest.raises(OutcomeUnknown):
        await cluster.ask("n1", "add_peer", id="n4", addr="n4:9700")


async def test_a_membership_change_that_a_new_leader_drops_was_not_made(cluster: Cluster) -> None:
    cluster.isolate("n1")
    errors: list[NotLeader] = []

    async def remove() -> None:
        with pytest.raises(NotLeader) as dropped:
            await cluster.ask("n1", "remove_peer", id="n3", force=True)
        errors.append(dropped.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove)
        await cluster.new_leader("n1")
        cluster.heal()
    assert errors[0].changed is False
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}


async def test_a_wiped_node_is_refused_until_it_is_added_again(cluster: Cluster) -> None:
    """SPEC 2: "a node that comes back under its old name with another instance id is refused"."""
    cluster.crash("n3")
    del cluster.disks["n3"]
    wiped = await cluster.start("n3")
    await trio.sleep(5)
    assert wiped.node.status()["state"] == "Uninitialized"
    assert cluster.up["n1"].node.status()["healthy"] is False
    cluster.crash("n3")
    await cluster.start("n3", address="n3:9800")
    with pytest.raises(OtherCluster):
        await cluster.ask("n1", "add_peer", id="n3", addr="n3:9800")
    await cluster.ask("n1", "remove_peer", id="n3")
    await cluster.ask("n1", "add_peer", id="n3", addr="n3:9800")
    assert cluster.up["n3"].raft.log.last_index, "it became a voter without a log"
    await cluster.until(cluster.is_calm, 10)
    assert len(cluster.digests()) == 1


async def test_a_node_whose_disk_refuses_to_join_ends_and_joins_later(nodes: Cluster) -> None:
    """Its store refuses every further write, so that nothing but a new start helps (seed 37)."""
    await nodes.form("n1")
    await nodes.start("n2")
    nodes.disks["n2"].fail(full=True)
    await nodes.ask("n1", "add_peer", id="n2", addr="n2:9700", wait=False)
    await nodes.until(lambda: "n2" in nodes.failures)
    await nodes.restart("n2")
    await nodes.until(lambda: nodes.members().get("n2"))


async def test_a_leader_may_lose_its_lease_while_it_records_an_instance(nodes: Cluster) -> None:
    """That ends its leadership, not its process (seed 1029)."""
    await nodes.form("n1", "n2")
    process = nodes.up["n1"]
    params = {"id": "n3", "addr": "nowhere:1", "wait": False, "preflight": False}
    await nodes.ask("n1", "add_peer", **params)
    caretaker = process.node._caretaker
    membership = evolve(caretaker.membership, met=lambda _: process.node._mesh.met("n2"))
    evolve(caretaker, membership=membership).record_met(process.clock.now() + 10)
    assert process.raft.leader is None
    assert process.raft.log.configuration.members[-1].instance == ""
