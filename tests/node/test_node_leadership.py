"""The leadership scope: it ends with the lease, and no two nodes are in it at once (SPEC 5, 9)."""

from __future__ import annotations

import contextlib
from functools import partial
from random import Random

import pytest
import trio

from nefia.errors import NefiaError
from tests.node.cluster import Cluster, Leadership, overlapping
from tests.node.simulated import run_simulated

LEASE_SECONDS = 0.5


def last_leadership(cluster: Cluster, name: str) -> Leadership:
    return next(one for one in reversed(cluster.leaderships) if one.node_id == name)


async def test_it_ends_with_the_lease(cluster: Cluster) -> None:
    """Counted from when the last answered heartbeat was sent, at most 100 ms before the cut."""
    cut_at = trio.current_time()
    cluster.isolate("n1")
    await trio.sleep(0.3)
    assert cluster.up["n1"].raft.lease_end <= cut_at + LEASE_SECONDS
    await trio.sleep(0.3)
    assert cluster.up["n1"].raft.leader is None, "without a quorum it steps down"
    await cluster.new_leader("n1")
    ((begin, end),) = last_leadership(cluster, "n1").periods
    assert begin < cut_at
    assert LEASE_SECONDS - 0.15 <= end - cut_at <= LEASE_SECONDS


async def test_it_ends_before_leadership_is_handed_over(cluster: Cluster) -> None:
    cluster.pause_at_hand_over("n2")
    with trio.move_on_after(0.1):  # n2 takes over later, or never: n1 does not wait for that
        await cluster.ask("n1", "transfer_leader", to="n2")
    assert "n2" in cluster.paused
    leader = cluster.up["n1"].raft.leader
    assert leader is not None, "it still waits for n2"
    assert leader.handed_over
    assert last_leadership(cluster, "n1").periods[-1][1] <= trio.current_time() - 0.09


async def test_it_lasts_through_changes_of_the_members(cluster: Cluster) -> None:
    before = len(cluster.leaderships)
    await cluster.ask("n1", "remove_peer", id="n3")
    await cluster.ask("n1", "remove_peer", id="n2")
    await trio.sleep(10)
    assert len(cluster.leaderships) == before
    assert last_leadership(cluster, "n1").periods[-1][1] > trio.current_time()


async def test_a_frozen_leader_does_not_act_when_it_wakes(cluster: Cluster) -> None:
    cluster.pause("n1")
    await cluster.new_leader("n1")
    woken_at = trio.current_time()
    cluster.resume("n1")
    await trio.sleep(1)
    assert last_leadership(cluster, "n1").periods[-1] == [woken_at, woken_at]
    assert overlapping(cluster.leaderships) == []


async def faults(cluster: Cluster, random: Random, seconds: float) -> None:
    """One after the other, often before the last one is over."""
    until = trio.current_time() + seconds
    while trio.current_time() < until:
        await trio.sleep(random.uniform(0.05, 1.5))
        await one_fault(cluster, random)


async def one_fault(cluster: Cluster, random: Random) -> None:
    name = random.choice(sorted(cluster.disks))
    process = cluster.up.get(name)
    match random.choice(("crash", "isolate", "cut", "heal", "heal", "pause", "transfer")):
        case _ if process is None:
            await cluster.restart(name)
        case _ if name in cluster.paused:
            cluster.resume(name)
        case "crash":
            cluster.crash(name)
        case "isolate":
            cluster.isolate(name)
        case "cut":
            cluster.cut(name, random.choice(sorted(cluster.disks.keys() - {name})))
        case "heal":
            cluster.heal()
        case "pause":
            cluster.pause(name)
        case "transfer":
            with trio.move_on_after(0.5):
                with contextlib.suppress(NefiaError):
                    await cluster.ask(name, "transfer_leader")


async def _fault_mix(seed: int) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, seed=seed)
        await cluster.form("n1", "n2", "n3")
        await faults(cluster, Random(seed), 30)
        assert overlapping(cluster.leaderships) == []
        assert len({one.term for one in cluster.leaderships}) > 2, "the mix has moved nothing"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(5))
def test_never_two_at_once(seed: int) -> None:
    run_simulated(partial(_fault_mix, seed), seed=seed)
