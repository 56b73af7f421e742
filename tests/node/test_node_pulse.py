"""The pulse that a watchdog rests on is that of the replica's loop, and of nothing beside it."""

from __future__ import annotations

import trio

from tests.node.cluster import Cluster


async def test_a_node_that_goes_on_has_a_pulse(cluster: Cluster) -> None:
    for process in cluster.up.values():
        with trio.fail_after(0.1):
            await process.node.pulse()


async def test_one_whose_loop_does_not_go_round_has_none(cluster: Cluster) -> None:
    node = cluster.up["n2"].node
    cluster.crash("n2")
    with trio.move_on_after(30.0) as patience:
        await node.pulse()
    assert patience.cancelled_caught
