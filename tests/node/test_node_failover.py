"""Who leads after a fault, and how soon (SPEC 5). Times are simulated."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
import trio

from nefia.errors import NefiaError, OutcomeUnknown, PeerUnreachable
from tests.node.cluster import POLL_SECONDS, Cluster

LEASE_SECONDS = 0.5
HEARTBEAT_TIMEOUT_SECONDS = 1.0
CRASH_SECONDS = 0.3
SILENCE_SECONDS = 1.3


async def change_after(cluster: Cluster, old: str, limit_seconds: float) -> None:
    """The next change is acknowledged by somebody else within the limit."""
    with trio.fail_after(limit_seconds):
        leader = await cluster.new_leader(old)
        await cluster.push(leader, f"after {old}")


async def test_a_crash_is_over_in_300_ms(cluster: Cluster) -> None:
    for _ in range(5):
        old = cluster.leader
        assert old is not None
        cluster.crash(old)
        await change_after(cluster, old, CRASH_SECONDS)
        await cluster.restart(old)
        await cluster.until(cluster.is_calm)
        await trio.sleep(2)


async def test_a_silent_network_is_over_in_1300_ms(cluster: Cluster) -> None:
    for _ in range(3):
        old = cluster.leader
        assert old is not None
        cluster.isolate(old)
        await change_after(cluster, old, SILENCE_SECONDS)
        cluster.heal()
        await cluster.until(cluster.is_calm)


async def test_a_frozen_leader_is_replaced_and_follows(cluster: Cluster) -> None:
    for _ in range(3):
        old = cluster.leader
        assert old is not None
        cluster.pause(old)
        await change_after(cluster, old, SILENCE_SECONDS)
        await trio.sleep(5)
        cluster.resume(old)
        await cluster.until(cluster.is_calm, 5)
        assert cluster.leader != old


async def test_a_short_freeze_costs_no_leader(cluster: Cluster) -> None:
    """Longer than the lease, shorter than the heartbeat timeout: n1 may lead again at once."""
    cluster.pause("n1")
    await trio.sleep(0.7)
    cluster.resume("n1")
    await cluster.new_leader(seconds=SILENCE_SECONDS)
    await cluster.until(cluster.is_calm)


async def test_one_cut_lane_moves_nothing(cluster: Cluster) -> None:
    term = cluster.up["n1"].raft.term
    for stream in cluster.net.between("n2", "n1"):
        stream.reset()
    await trio.sleep(5)
    assert (cluster.leader, cluster.up["n1"].raft.term) == ("n1", term)


async def test_a_cut_between_two_followers_moves_nothing(cluster: Cluster) -> None:
    term = cluster.up["n1"].raft.term
    cluster.cut("n2", "n3")
    await trio.sleep(30)
    assert (cluster.leader, cluster.up["n1"].raft.term) == ("n1", term)


async def test_a_follower_that_hears_no_leader_disturbs_nobody(cluster: Cluster) -> None:
    """A majority whose members all reach each other keeps its leader: pre-vote, stickiness."""
    term = cluster.up["n1"].raft.term
    cluster.cut("n1", "n3")
    await trio.sleep(30)
    cluster.heal()
    await trio.sleep(5)
    assert (cluster.leader, cluster.up["n1"].raft.term) == ("n1", term)
    assert cluster.is_calm()


async def test_a_leader_whose_disk_hangs_hands_over(cluster: Cluster) -> None:
    cluster.disks["n1"].stall()
    await cluster.push("n1", "two others store it, so it is committed none the less")
    await change_after(cluster, "n1", HEARTBEAT_TIMEOUT_SECONDS + 0.3)
    await trio.sleep(30)
    assert cluster.leader != "n1"
    cluster.disks["n1"].release()
    await cluster.until(cluster.is_calm)
    assert cluster.failures == {}


async def unknown_to_its_client(cluster: Cluster, name: str, request_id: str) -> None:
    with pytest.raises(OutcomeUnknown):
        await cluster.push(name, "perhaps", request_id=request_id)


@pytest.mark.parametrize("full", [True, False])
async def test_a_leader_whose_write_fails_hands_over_at_once(
    nursery: trio.Nursery, cluster: Cluster, full: bool
) -> None:
    cluster.disks["n1"].fail(full=full)
    nursery.start_soon(unknown_to_its_client, cluster, "n1", "r")
    await change_after(cluster, "n1", 0.1)
    await cluster.until(lambda: "n1" in cluster.failures)
    assert cluster.failures["n1"].details["full"] is full
    cluster.disks["n1"].repair()
    await cluster.restart("n1")
    await cluster.until(cluster.is_calm)
    assert len(cluster.digests()) == 1


async def test_a_node_with_a_failed_disk_acknowledges_nothing_more(cluster: Cluster) -> None:
    cluster.crash("n3")
    cluster.disks["n2"].fail()
    with trio.move_on_after(5):
        await cluster.push("n1", "not by a majority")
        pytest.fail("n1 alone has stored it")
    assert set(cluster.failures) == {"n2"}


async def test_a_followers_hanging_disk_stops_nothing(cluster: Cluster) -> None:
    cluster.disks["n2"].stall()
    term = cluster.up["n1"].raft.term
    for number in range(20):
        with trio.fail_after(0.1):
            await cluster.push("n1", number)
        await trio.sleep(0.5)
    assert (cluster.leader, cluster.up["n1"].raft.term) == ("n1", term)
    cluster.disks["n2"].release()
    await cluster.until(cluster.is_calm, 5)
    assert len(cluster.digests()) == 1


async def test_all_killed_at_once_continue(cluster: Cluster) -> None:
    for number in range(5):
        await cluster.push("n1", number)
    await cluster.until(cluster.is_calm)
    (digest,) = cluster.digests()
    term = cluster.up["n1"].raft.term
    for name in ("n1", "n2", "n3"):
        cluster.crash(name)
    for name in ("n1", "n2", "n3"):
        await cluster.start(name)
    await cluster.new_leader(seconds=2)
    await cluster.until(cluster.is_calm)
    assert cluster.digests() != {digest}  # another applied index: the no-op of the new term
    assert all(process.raft.term > term for process in cluster.up.values())
    leader = cluster.leader
    assert leader is not None
    tasks = (await cluster.ask(leader, "queue_list"))["tasks"]
    assert [task["payload"] for task in tasks] == list(range(5))


# Planned hand-over (3.10).


async def test_leadership_goes_to_whom_it_is_given(cluster: Cluster) -> None:
    term = cluster.up["n1"].raft.term
    given = await cluster.ask("n1", "transfer_leader", to="n3")
    assert (given["leader_id"], given["term"]) == ("n3", term + 1)
    assert list(given["phases"]) == ["record_ms", "stop_ms", "catch_up_ms", "election_ms"]
    assert 0 <= sum(given["phases"].values()) < 100
    assert await cluster.new_leader("n1") == "n3"


async def test_a_transfer_to_a_node_that_is_down_changes_nothing(cluster: Cluster) -> None:
    cluster.crash("n3")
    await cluster.push("n1", 1)
    with pytest.raises(PeerUnreachable) as refused:
        await cluster.ask("n1", "transfer_leader", to="n3")
    assert refused.value.changed is False
    await cluster.push("n1", 2)


async def test_a_transfer_to_a_frozen_node_changes_nothing(cluster: Cluster) -> None:
    """It has to bring the entry that tells of the transfer first, so that nothing is handed over
    to a node that has every entry and is gone nevertheless."""
    cluster.pause("n3")
    with pytest.raises(PeerUnreachable) as refused:
        await cluster.ask("n1", "transfer_leader", to="n3")
    assert refused.value.changed is False
    assert cluster.leader == "n1"


async def test_a_transfer_to_a_node_that_freezes_names_who_leads(cluster: Cluster) -> None:
    """n3 has all entries, is told to take over, and never does."""
    cluster.pause_at_hand_over("n3")
    with trio.fail_after(5):
        given = await cluster.ask("n1", "transfer_leader", to="n3")
    assert given["leader_id"] == await cluster.new_leader("n1") == "n2"


async def test_a_leader_that_has_to_lead_again_after_a_transfer_says_so(
    nursery: trio.Nursery, cluster: Cluster
) -> None:
    cluster.pause_at_hand_over("n3")
    nursery.start_soon(_have_patience, cluster, "n2")
    with trio.fail_after(5):
        with pytest.raises(PeerUnreachable) as refused:
            await cluster.ask("n1", "transfer_leader", to="n3")
    assert "n3 did not take over" in refused.value.message
    assert await cluster.new_leader() == "n1"


async def _have_patience(cluster: Cluster, name: str) -> None:
    """Campaign later than the former leader, which steps down after a second."""
    await trio.sleep(1.2)
    cluster.up[name].raft.election.due += 5


async def test_a_leader_that_leaves_costs_less_than_200_ms(cluster: Cluster) -> None:
    """It hands over and says goodbye, so that nobody takes it for crashed."""
    acknowledged: list[float] = []
    done = False

    async def push_all_the_time() -> None:
        while not done:
            if leader := cluster.leader:
                with suppress(NefiaError):
                    await cluster.push(leader, 1)
                    acknowledged.append(trio.current_time())
            await trio.sleep(POLL_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push_all_the_time)
        await trio.sleep(1)
        term = cluster.up["n1"].raft.term
        await cluster.leave("n1")
        await trio.sleep(3)
        done = True
    assert max(b - a for a, b in pairwise(acknowledged)) < 0.2
    leader = cluster.leader
    assert leader is not None
    assert cluster.up[leader].raft.term == term + 1
    assert not any(process.raft.election.leader_lost for process in cluster.up.values())


async def test_a_follower_that_leaves_moves_nothing(cluster: Cluster) -> None:
    term = cluster.up["n1"].raft.term
    await cluster.leave("n3")
    await trio.sleep(5)
    assert (cluster.leader, cluster.up["n1"].raft.term) == ("n1", term)
